<?php
/* What both PHP clients are asked: client.php and client_memcache.php include it. $m is the client. */

/* Exits 1 unless the answer is the wanted one. */
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

/* Phase "store" or "read": 500 values that go to flash in between. Ends the program. */
function flash_phase($m, $phase)
{
    mt_srand(2);
    for ($i = 0; $i < 500; $i++) {
        $value = str_repeat(chr(mt_rand(0, 255)), mt_rand(300, 5000)) . $i;
        if ($phase === "store")
            check("store $i", $m->set("flash-$i", $value));
        else
            check("read $i", $m->get("flash-$i") === $value);
    }
    exit(0);
}

function simple_calls($m, $may_replace_missing = true)
{
    check("set", $m->set("a", "one"));
    check("get", $m->get("a"), "one");
    check("get missing", $m->get("missing"), false);
    check("add over", $m->add("a", "x"), false);
    check("add", $m->add("b", "two"));
    if ($may_replace_missing)
        check("replace missing", $m->replace("missing", "x"), false);
    check("replace", $m->replace("b", "three"));
    check("append", $m->append("b", "!"));
    check("prepend", $m->prepend("b", ">"));
    check("appended", $m->get("b"), ">three!");
    check("delete", $m->delete("b"));
    check("delete again", $m->delete("b"), false);
    check("types", $m->set("list", [1, "x", null, 2.5]));
    check("types back", $m->get("list"), [1, "x", null, 2.5]);

    check("number", $m->set("n", "10"));
    check("incr", $m->increment("n", 5), 15);
    check("decr", $m->decrement("n", 20), 0);
    check("incr missing", $m->increment("nn", 1), false);
}

/* 1,000 values, set by $set_all and read back by $get_all among 50 keys that don't exist. */
function many_values($set_all, $get_all)
{
    mt_srand(1);
    $many = [];
    for ($i = 0; $i < 1000; $i++)
        $many["many-$i"] = str_repeat(chr(mt_rand(0, 255)), mt_rand(1, 3000)) . $i;
    $set_all($many);
    $got = $get_all(array_merge(array_keys($many), array_map(fn($i) => "never-$i", range(1, 50))));
    ksort($got);
    ksort($many);
    check("many values", $got === $many);
}

function large_values($m)
{
    foreach ([500000, 1048576, 3000000] as $size) {
        $value = random_bytes($size);
        check("set $size", $m->set("big", $value));
        check("get $size", $m->get("big") === $value);
    }
}
