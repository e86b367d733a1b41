<?php
/* client.php PORT text|binary [store|read]: php-memcached against the server on 127.0.0.1:PORT; exits 1 at
 * the first wrong answer. With SASL_USER and SASL_PASSWORD it logs in first. */
require __DIR__ . "/client_common.php";

$m = new Memcached();
$m->setOption(Memcached::OPT_COMPRESSION, false);
$m->setOption(Memcached::OPT_POLL_TIMEOUT, 120000);
$m->setOption(Memcached::OPT_BINARY_PROTOCOL, $argv[2] === "binary");
if (getenv("SASL_USER"))
    $m->setSaslAuthData(getenv("SASL_USER"), getenv("SASL_PASSWORD"));
$m->addServer("127.0.0.1", (int)$argv[1]);
if (isset($argv[3]))
    flash_phase($m, $argv[3]);

simple_calls($m);
check("get missing", $m->get("missing"), false);
check("result code", $m->getResultCode(), Memcached::RES_NOTFOUND);
check("int", $m->set("int", 42) && $m->get("int") === 42);

check("cas set", $m->set("c", "one"));
$got = $m->get("c", null, Memcached::GET_EXTENDED);
check("gets", $got["value"], "one");
check("cas", $m->cas($got["cas"], "c", "two"));
check("bad cas", $m->cas($got["cas"], "c", "three"), false);
check("bad cas code", $m->getResultCode(), Memcached::RES_DATA_EXISTS);
check("after cas", $m->get("c"), "two");

check("brief", $m->set("brief", "x", 1));
wait_until(fn() => $m->set("later", "x", 1) && $m->touch("later", 1000)); // again, if a second has passed in between
wait_until(fn() => $m->get("brief") === false);
check("gone", $m->set("gone", "x", 1));
wait_until(fn() => $m->get("gone") === false);
check("touched", $m->get("later"), "x");
check("touch missing", $m->touch("missing", 5), false);

many_values(fn($many) => check("setMulti", $m->setMulti($many)), fn($keys) => $m->getMulti($keys));
large_values($m);
$stats = array_values($m->getStats())[0];
check("stats", $stats["curr_items"] > 0 && $stats["cmd_set"] > 0);
check("version", substr_count(array_values($m->getVersion())[0], "."), 2);
check("flush", $m->flush());
check("flushed", $m->get("a"), false);
check("after flush", $m->set("a", "x") && $m->get("a") === "x");
echo "php-memcached, $argv[2]: all answers as from memcached\n";
