// Programs for a compiler that patches the code it has made while other threads run it.

import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Programs {
    interface Shape {
        double area();
    }

    record Square(double side) implements Shape {
        public double area() {
            return side * side;
        }
    }

    record Circle(double radius) implements Shape {
        public double area() {
            return Math.PI * radius * radius;
        }
    }

    record Triangle(double base, double height) implements Shape {
        public double area() {
            return base * height / 2;
        }
    }

    /** Calls with one target, then two, then three: code that was made for fewer is thrown away. */
    static double shapes() {
        double sum = 0;
        for (int round = 0; round < 200; round++) {
            Shape[] shapes = new Shape[3000];
            for (int i = 0; i < shapes.length; i++) {
                shapes[i] = i % 3 == 0 || round < 50 ? new Square(i)
                        : i % 3 == 1 || round < 100 ? new Circle(i) : new Triangle(i, round);
            }
            for (Shape shape : shapes) {
                sum += shape.area();
            }
        }
        return sum;
    }

    /** Null pointers, which compiled code finds by a fault. */
    static int nulls() {
        Object[] objects = new Object[2000];
        for (int i = 0; i < objects.length; i++) {
            objects[i] = i % 7 == 0 ? null : Integer.valueOf(i);
        }
        int sum = 0;
        for (int round = 0; round < 300; round++) {
            for (Object object : objects) {
                try {
                    sum += object.hashCode() & 1;
                } catch (NullPointerException e) {
                    sum += 3;
                }
            }
        }
        return sum;
    }

    static int divide(int a, int b) {
        try {
            return a / b;
        } catch (ArithmeticException e) {
            return -7;
        }
    }

    static int bounds() {
        int sum = 0;
        int[] few = new int[5];
        for (int i = 0; i < 100000; i++) {
            try {
                sum += few[i % 7];
            } catch (ArrayIndexOutOfBoundsException e) {
                sum++;
            }
        }
        return sum;
    }

    static String threads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        AtomicLong count = new AtomicLong();
        LongAdder sum = new LongAdder();
        ConcurrentHashMap<Integer, Integer> map = new ConcurrentHashMap<>();
        List<Future<?>> all = new ArrayList<>();
        for (int thread = 0; thread < 4; thread++) {
            all.add(pool.submit(() -> {
                for (int i = 0; i < 100000; i++) {
                    count.incrementAndGet();
                    sum.add(i);
                    map.merge(i % 97, 1, Integer::sum);
                }
            }));
        }
        for (Future<?> one : all) {
            one.get();
        }
        pool.shutdown();
        return count + " " + sum + " " + map.values().stream().mapToInt(x -> x).sum();
    }

    static synchronized int locked(int x) {
        return x * 31 + 1;
    }

    static int deep(int n) {
        return deep(n + 1) + 1;
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println("shapes " + shapes());
        System.out.println("nulls " + nulls());
        int quotients = 0;
        for (int i = -200000; i < 200000; i++) {
            quotients += divide(i * 7919, i % 1000);
        }
        System.out.println("divide " + quotients);
        System.out.println("bounds " + bounds());
        byte[] bytes = new byte[500000];
        new Random(1).nextBytes(bytes);
        for (String name : new String[] {"MD5", "SHA-1", "SHA-256", "SHA-512", "SHA3-256"}) {
            System.out.println(name + " " + HexFormat.of().formatHex(MessageDigest.getInstance(name).digest(bytes)));
        }
        long hash = 0;
        TreeMap<String, Integer> tree = new TreeMap<>();
        for (int i = 0; i < 100000; i++) {
            tree.merge(Integer.toString(i * 7919 % 5003, 36), i, Integer::sum);
        }
        for (var entry : tree.entrySet()) {
            hash = hash * 31 + entry.getKey().hashCode() + entry.getValue();
        }
        System.out.println("tree " + hash);
        BigInteger factorial = BigInteger.ONE;
        for (int i = 1; i < 1500; i++) {
            factorial = factorial.multiply(BigInteger.valueOf(i));
        }
        System.out.println("factorial " + factorial.hashCode() + " " + factorial.bitLength());
        System.out.println("threads " + threads());
        double sum = 0;
        for (int i = 1; i < 300000; i++) {
            sum += Math.sqrt(i) * (double) (float) (i / 3.0) + (long) (i * 1e10) % 7 + Math.floorMod(-i, 13);
        }
        System.out.println("numbers " + sum);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 20000; i++) {
            text.append(String.format("%05d", i));
        }
        System.out.println("text " + text.toString().hashCode());
        int state = 0;
        for (int i = 0; i < 3000000; i++) {
            state = locked(state);
        }
        System.out.println("locked " + state);
        int[] numbers = new Random(3).ints(300000).toArray();
        Arrays.sort(numbers);
        System.out.println("sorted " + Arrays.hashCode(numbers));
        byte[][] kept = new byte[50][];
        for (int i = 0; i < 3000; i++) {
            kept[i % 50] = new byte[20000];
            kept[i % 50][i] = 1;
        }
        System.gc();
        System.out.println("collected " + kept[7].length);
        try {
            deep(0);
        } catch (StackOverflowError e) {
            System.out.println("overflow caught");
        }
    }
}
