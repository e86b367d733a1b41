<?php
/* client_memcache.php PORT text|binary [store|read]: php-memcache (the older extension) against the server on
 * 127.0.0.1:PORT; exits 1 at the first wrong answer. */
require __DIR__ . "/client_common.php";

$binary = $argv[2] === "binary";
ini_set("memcache.protocol", $binary ? "binary" : "ascii");
$m = new Memcache();
check("connect", $m->connect("127.0.0.1", (int)$argv[1], 120));
if (isset($argv[3]))
    flash_phase($m, $argv[3]);

simple_calls($m, !$binary); /* in binary the client takes a missing key for a broken server, memcached too */

$flags = 0;
$cas = 0;
check("gets", $m->get("a", $flags, $cas), "one");
check("cas", $m->cas("a", "two", 0, 0, $cas));
check("cas again", $m->cas("a", "three", 0, 0, $cas), false);
check("after cas", $m->get("a"), "two");

check("brief", $m->set("brief", "x", 0, 1));
wait_until(fn() => $m->get("brief") === false);

$set_all = function ($many) use ($m) {
    foreach ($many as $key => $value)
        check("set $key", $m->set($key, $value));
};
many_values($set_all, fn($keys) => $m->get($keys));
large_values($m);
check("version", substr_count($m->getVersion(), "."), 2);
if (!$binary) /* in binary it fails against memcached too */
    check("stats", $m->getStats()["curr_items"] > 0);
check("flush", $m->flush());
check("flushed", $m->get("a"), false);
echo "php-memcache, $argv[2]: all answers as from memcached\n";
