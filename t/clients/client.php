<?php
/* client.php PORT text|binary [store|read]: php-memcached against the server on 127.0.0.1:PORT; exits 1 at
 * the first wrong answer. With SASL_USER and SASL_PASSWORD it logs in first. */

function check($what, $got, $wanted = true)
{
    if ($got === $wanted)
        return;
    fwrite(STDERR, "$what: got " . substr(var_export($got, true), 0, 200) . "\n");
    exit(1);
}

function wait_until($condition, $seconds = 120)
{
    $end = microtime(true) + $seconds;
    while (!$condition()) {
        check("waited in vain", microtime(true) < $end);
        usleep(20000);
    }
}

$m = new Memcached();
$m->setOption(Memcached::OPT_COMPRESSION, false);
$m->setOption(Memcached::OPT_POLL_TIMEOUT, 20000);
$m->setOption(Memcached::OPT_BINARY_PROTOCOL, $argv[2] === "binary");
if (getenv("SASL_USER"))
    $m->setSaslAuthData(getenv("SASL_USER"), getenv("SASL_PASSWORD"));
$m->addServer("127.0.0.1", (int)$argv[1]);

$phase = $argv[3] ?? "";
mt_srand(2);
for ($i = 0; $phase !== "" && $i < 500; $i++) {
    $value = str_repeat(chr(mt_rand(0, 255)), mt_rand(300, 5000)) . $i;
    if ($phase === "store")
        check("store $i", $m->set("flash-$i", $value));
    else
        check("read $i", $m->get("flash-$i") === $value);
}
if ($phase !== "")
    exit(0);

check("set", $m->set("a", "one"));
check("get", $m->get("a"), "one");
check("get missing", $m->get("missing"), false);
check("result code", $m->getResultCode(), Memcached::RES_NOTFOUND);
check("add over", $m->add("a", "x"), false);
check("add", $m->add("b", "two"));
check("replace missing", $m->replace("missing", "x"), false);
check("replace", $m->replace("b", "three"));
check("append", $m->append("b", "!"));
check("prepend", $m->prepend("b", ">"));
check("appended", $m->get("b"), ">three!");
check("delete", $m->delete("b"));
check("delete again", $m->delete("b"), false);
check("types", $m->set("list", [1, "x", null, 2.5]));
check("types back", $m->get("list"), [1, "x", null, 2.5]);
check("int", $m->set("int", 42) && $m->get("int") === 42);

check("number", $m->set("n", "10"));
check("incr", $m->increment("n", 5), 15);
check("decr", $m->decrement("n", 20), 0);
check("incr missing", $m->increment("nn", 1), false);

check("cas set", $m->set("c", "one"));
$got = $m->get("c", null, Memcached::GET_EXTENDED);
check("gets", $got["value"], "one");
check("cas", $m->cas($got["cas"], "c", "two"));
check("bad cas", $m->cas($got["cas"], "c", "three"), false);
check("bad cas code", $m->getResultCode(), Memcached::RES_DATA_EXISTS);
check("after cas", $m->get("c"), "two");

check("brief", $m->set("brief", "x", 1));
check("later", $m->set("later", "x", 1) && $m->touch("later", 1000));
wait_until(fn() => $m->get("brief") === false);
check("gone", $m->set("gone", "x", 1));
wait_until(fn() => $m->get("gone") === false);
check("touched", $m->get("later"), "x");
check("touch missing", $m->touch("missing", 5), false);

mt_srand(1);
$many = [];
for ($i = 0; $i < 1000; $i++)
    $many["many-$i"] = str_repeat(chr(mt_rand(0, 255)), mt_rand(1, 3000)) . $i;
check("setMulti", $m->setMulti($many));
$asked = array_merge(array_keys($many), array_map(fn($i) => "never-$i", range(1, 50)));
$got = $m->getMulti($asked);
ksort($got);
ksort($many);
check("getMulti", $got === $many);

foreach ([500000, 1048576, 3000000] as $size) {
    $value = random_bytes($size);
    check("set $size", $m->set("big", $value));
    check("get $size", $m->get("big") === $value);
}
$stats = array_values($m->getStats())[0];
check("stats", $stats["curr_items"] > 0 && $stats["cmd_set"] > 0);
check("version", substr_count(array_values($m->getVersion())[0], "."), 2);
check("flush", $m->flush());
check("flushed", $m->get("a"), false);
check("after flush", $m->set("a", "x") && $m->get("a") === "x");
echo "php-memcached, $argv[2]: all answers as from memcached\n";
