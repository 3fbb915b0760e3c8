//! What programs are given: made anew each time, and the same everywhere.

use std::fmt::Write;

/// Numbers that are the same everywhere (xorshift64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Text of about this length. Half of it repeats what was there before, so that it compresses as source code does.
pub fn text(length: usize) -> Vec<u8> {
    let mut numbers = Numbers(7);
    let words: Vec<Vec<u8>> = (0..500)
        .map(|_| (0..2 + numbers.next() % 8).map(|_| b'a' + (numbers.next() % 26) as u8).collect())
        .collect();
    let mut text = Vec::new();
    while text.len() < length {
        let pick = numbers.next();
        if pick >> 60 == 0 && !text.is_empty() {
            let start = pick as usize % text.len();
            let end = (start + 20 + (pick >> 40) as usize % 160).min(text.len());
            text.extend_from_within(start..end);
        }
        text.extend(&words[(pick % 500).min(pick >> 32 & 0x1ff) as usize]);
        text.push(if pick >> 48 & 7 == 0 { b'\n' } else { b' ' });
    }
    text
}

/// A table of 100,000 rows, inserted twenty at a time, an index, and a query that joins it to another.
pub fn sql() -> String {
    const INSERTS: u64 = 100_000;
    const CUSTOMERS: u64 = 1000;
    let mut numbers = Numbers(11);
    let mut sql = String::from(
        "CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT);\n\
         CREATE TABLE sale(id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER, note TEXT);\nBEGIN;\n",
    );
    let mut add = |line: std::fmt::Arguments<'_>| sql.write_fmt(line).expect("strings take all");
    for id in 0..CUSTOMERS {
        add(format_args!("INSERT INTO customer VALUES({id}, 'c{}');\n", numbers.next() % 10_000));
    }
    for id in 0..INSERTS {
        let (before, after) = match id % 20 {
            0 => ("INSERT INTO sale VALUES", ","),
            19 => ("", ";\n"),
            _ => ("", ","),
        };
        let (customer, amount, note) = (numbers.next() % CUSTOMERS, numbers.next() % 10_000, id % 97);
        add(format_args!("{before}({id}, {customer}, {amount}, 'n{note}'){after}"));
    }
    add(format_args!(
        "COMMIT;\nCREATE INDEX sale_customer ON sale(customer, amount);\n\
         SELECT name, count(*), sum(amount), max(note) FROM customer JOIN sale ON sale.customer = customer.id \
         WHERE amount > 100 GROUP BY customer.id ORDER BY 3 DESC, 1 LIMIT 100;\n"
    ));
    sql
}

/// A C file of ninety functions: loops over arrays, switches, structures, floating point, calls.
pub fn c_source() -> String {
    let mut source = String::from("struct node { struct node *next; int key; double weight; };\n");
    for n in 0..18_u32 {
        let (a, b, c) = (n * 7 + 3, n % 5 + 2, n * 13 + 1);
        write!(
            source,
            "unsigned mix{n}(unsigned *v, unsigned n) {{\n\
             \tunsigned s = {a};\n\
             \twhile (n--) {{ s = s * {c} + (*v++ ^ s >> {b}); }}\n\
             \treturn s;\n}}\n\
             int pick{n}(int k) {{\n\
             \tswitch (k % 9) {{\n\
             \tcase 0: return k * {a}; case 1: return k + {b}; case 3: return k ^ {c}; default: return -k;\n\t}}\n}}\n\
             double norm{n}(double x, double y) {{\n\
             \treturn x > {a} ? x * y / (1 + x) : y - {b}.5;\n}}\n\
             int walk{n}(struct node *l, int key) {{\n\
             \twhile (l && l->key != key + {c}) l = l->next;\n\
             \treturn l ? l->key : -1;\n}}\n\
             void join{n}(struct node *l, unsigned *v) {{\n\
             \tif (l->key > {a}) l->weight = norm{n}(l->weight, {b});\n\
             \telse l->key = pick{n}(v[{b}]);\n}}\n"
        )
        .expect("strings take all");
    }
    source
}
