/* Client.java PORT text|binary [store|read]: spymemcached against the server on 127.0.0.1:PORT; exits 1 at the
 * first wrong answer. */
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import net.spy.memcached.CASResponse;
import net.spy.memcached.CASValue;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.MemcachedClient;

public class Client {
    static MemcachedClient m;

    static void check(String what, boolean ok) {
        if (ok)
            return;
        System.err.println("spymemcached: " + what);
        System.exit(1);
    }

    static byte[] noise(Random r, int size) {
        byte[] value = new byte[size];
        r.nextBytes(value);
        return value;
    }

    static boolean goes(String key) throws Exception {
        for (long end = System.currentTimeMillis() + 120000; System.currentTimeMillis() < end; Thread.sleep(20))
            if (m.get(key) == null)
                return true;
        return false;
    }

    /* Stored for a second, and touched before that is over: again, if it has passed in between. */
    static boolean lives(String key) throws Exception {
        for (long end = System.currentTimeMillis() + 120000; System.currentTimeMillis() < end;)
            if (m.set(key, 1, "x").get() && m.touch(key, 1000).get())
                return true;
        return false;
    }

    static void flash(String phase) throws Exception {
        Random r = new Random(2);
        for (int i = 0; i < 500; i++) {
            byte[] value = noise(r, 300 + r.nextInt(4700));
            if (phase.equals("store"))
                check("store " + i, m.set("flash-" + i, 0, value).get());
            else
                check("read " + i, Arrays.equals((byte[])m.get("flash-" + i), value));
        }
    }

    static void all(boolean binary) throws Exception {
        check("set", m.set("a", 0, "one").get() && m.get("a").equals("one"));
        check("get missing", m.get("missing") == null);
        check("add over", !m.add("a", 0, "x").get());
        check("add", m.add("b", 0, "two").get());
        check("replace missing", !m.replace("missing", 0, "x").get());
        check("replace", m.replace("b", 0, "three").get());
        check("append", m.append("b", "!").get() && m.prepend("b", ">").get());
        check("appended", m.get("b").equals(">three!"));
        check("delete", m.delete("b").get() && !m.delete("b").get());

        check("number", m.set("n", 0, "10").get());
        check("incr", m.incr("n", 5) == 15);
        check("decr", m.decr("n", 20) == 0);
        check("incr missing", m.incr("missing", 1) == -1);
        check("incr with a first value", m.incr("first", 1, 7, 0) == 7 && m.incr("first", 1) == 8);

        CASValue<Object> got = m.gets("a");
        check("gets", got.getValue().equals("one"));
        check("cas", m.cas("a", got.getCas(), "two") == CASResponse.OK);
        check("cas again", m.cas("a", got.getCas(), "three") == CASResponse.EXISTS);
        check("cas missing", m.cas("missing", got.getCas(), "x") == CASResponse.NOT_FOUND);
        check("after cas", m.get("a").equals("two"));

        check("later", lives("later"));
        check("touch missing", !m.touch("missing", 5).get());
        if (binary) /* in text the client has no such command */
            check("gat", m.getAndTouch("later", 1000).getValue().equals("x"));
        check("brief", m.set("brief", 1, "x").get() && goes("brief"));
        check("touched", m.get("later").equals("x"));

        Random r = new Random(1);
        Map<String, byte[]> many = new HashMap<>();
        List<String> keys = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            many.put("many-" + i, noise(r, 1 + r.nextInt(3000)));
            check("set many " + i, m.set("many-" + i, 0, many.get("many-" + i)).get());
            keys.add("many-" + i);
            keys.add("never-" + i);
        }
        Map<String, Object> found = m.getBulk(keys);
        check("bulk", found.size() == 1000);
        for (String key : many.keySet())
            check("bulk " + key, Arrays.equals((byte[])found.get(key), many.get(key)));
        for (int size : new int[] {500000, 1000000}) {
            byte[] value = noise(r, size);
            check("set big", m.set("big", 0, value).get() && Arrays.equals((byte[])m.get("big"), value));
        }
        Map<String, String> stats = m.getStats().values().iterator().next();
        check("stats", Long.parseLong(stats.get("curr_items")) > 0);
        check("version", m.getVersions().values().iterator().next().split("\\.").length == 3);
        check("flush", m.flush().get() && m.get("a") == null);
    }

    public static void main(String[] args) throws Exception {
        boolean binary = args[1].equals("binary");
        System.setProperty("net.spy.log.LoggerImpl", "net.spy.memcached.compat.log.SunLogger");
        java.util.logging.Logger.getLogger("net.spy.memcached").setLevel(java.util.logging.Level.WARNING);
        m = new MemcachedClient(new ConnectionFactoryBuilder().setOpTimeout(120000)
                .setProtocol(binary ? ConnectionFactoryBuilder.Protocol.BINARY : ConnectionFactoryBuilder.Protocol.TEXT)
                .build(), Arrays.asList(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]))));
        if (args.length > 2)
            flash(args[2]);
        else
            all(binary);
        m.shutdown();
        if (args.length == 2)
            System.out.println("spymemcached, " + args[1] + ": all answers as from memcached");
    }
}
