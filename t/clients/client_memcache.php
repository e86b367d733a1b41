<?php
/* client_memcache.php PORT text|binary [store|read]: php-memcache (the older extension) against the server on
 * 127.0.0.1:PORT; exits 1 at the first wrong answer. */

function check($what, $got, $wanted = true)
{
    if ($got === $wanted)
        return;
    fwrite(STDERR, "$what: got " . substr(var_export($got, true), 0, 200) . "\n");
    exit(1);
}

ini_set("memcache.protocol", $argv[2] === "binary" ? "binary" : "ascii");
$m = new Memcache();
check("connect", $m->connect("127.0.0.1", (int)$argv[1], 120));

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
check("add over", $m->add("a", "x"), false);
check("add", $m->add("b", "two"));
if ($argv[2] !== "binary") /* in binary the client takes a missing key for a broken server, memcached too */
    check("replace missing", $m->replace("missing", "x"), false);
check("replace", $m->replace("b", "three"));
check("append", $m->append("b", "!"));
check("prepend", $m->prepend("b", ">"));
check("appended", $m->get("b"), ">three!");
check("delete", $m->delete("b"));
check("delete again", $m->delete("b"), false);
check("types", $m->set("list", [1, "x", null, 2.5]) && $m->get("list") === [1, "x", null, 2.5]);

check("number", $m->set("n", "10"));
check("incr", $m->increment("n", 5), 15);
check("decr", $m->decrement("n", 20), 0);
check("incr missing", $m->increment("missing", 1), false);

$flags = 0;
$cas = 0;
check("gets", $m->get("a", $flags, $cas), "one");
check("cas", $m->cas("a", "two", 0, 0, $cas));
check("cas again", $m->cas("a", "three", 0, 0, $cas), false);
check("after cas", $m->get("a"), "two");

check("brief", $m->set("brief", "x", 0, 1));
for ($end = microtime(true) + 120; $m->get("brief") !== false; usleep(20000))
    check("waited in vain", microtime(true) < $end);

mt_srand(1);
$many = [];
for ($i = 0; $i < 1000; $i++) {
    $many["many-$i"] = str_repeat(chr(mt_rand(0, 255)), mt_rand(1, 3000)) . $i;
    check("set many $i", $m->set("many-$i", $many["many-$i"]));
}
$got = $m->get(array_merge(array_keys($many), array_map(fn($i) => "never-$i", range(1, 50))));
ksort($got);
ksort($many);
check("multi-get", $got === $many);
foreach ([500000, 1048576, 3000000] as $size) {
    $value = random_bytes($size);
    check("set $size", $m->set("big", $value));
    check("get $size", $m->get("big") === $value);
}
check("version", substr_count($m->getVersion(), "."), 2);
if ($argv[2] !== "binary") /* in binary it fails against memcached too */
    check("stats", $m->getStats()["curr_items"] > 0);
check("flush", $m->flush());
check("flushed", $m->get("a"), false);
echo "php-memcache, $argv[2]: all answers as from memcached\n";
