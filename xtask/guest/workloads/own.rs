//! Rows that this program does itself.

use std::hint::black_box;
use std::io::{Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::inputs::Numbers;
use crate::programs::read_in;
use crate::{Outcome, Work, system};

fn work(work: impl FnOnce() -> u64 + 'static) -> Work {
    Box::new(|| Outcome::Number(work()))
}

/// Sums, shifts and a branch in registers, each with the last one's result.
pub fn integer_loop() -> Work {
    work(|| {
        let mut value = black_box(1_u64);
        let mut left = 100_000_000_i64;
        while left > 0 {
            value = (value ^ left as u64).wrapping_add(value >> 7);
            // The value is hardly ever 0. But the compiler, which does not know how often this runs, does not unroll it.
            left -= 1 + i64::from(value == 0);
        }
        value
    })
}

/// One load after another, each at an address that the last one gave, in 8 MiB.
pub fn pointer_chase() -> Work {
    const LENGTH: usize = 1 << 20;
    let mut numbers = Numbers(1);
    // A single cycle through all places (Sattolo).
    let mut next: Vec<u64> = (0..LENGTH as u64).collect();
    for i in (1..LENGTH).rev() {
        next.swap(i, numbers.next() as usize % i);
    }
    work(move || {
        let mut at = 0;
        for _ in 0..20_000_000 {
            at = next[at] as usize;
        }
        at as u64
    })
}

/// Products of matrices of doubles, two columns at a time (SSE2).
pub fn matrix_product() -> Work {
    const N: usize = 256;
    let a: Vec<f64> = (0..N * N).map(|i| (i % 7) as f64).collect();
    let b: Vec<f64> = (0..N * N).map(|i| (i % 5) as f64).collect();
    let mut c = vec![0.0; N * N];
    work(move || {
        for _ in 0..20 {
            for (row, a) in c.chunks_exact_mut(N).zip(a.chunks_exact(N)) {
                for (a, b) in a.iter().zip(b.chunks_exact(N)) {
                    for (c, b) in row.iter_mut().zip(b) {
                        *c += a * b;
                    }
                }
            }
        }
        black_box(&c).iter().sum::<f64>().to_bits()
    })
}

/// 64 K integers put in order: nearly all of it is loads and stores.
pub fn shell_sort() -> Work {
    const LENGTH: usize = 1 << 16;
    /// Ciura's gaps, continued by 2.25.
    const GAPS: [usize; 14] = [29524, 13122, 5831, 2591, 1151, 511, 301, 132, 57, 23, 10, 4, 2, 1];
    let mut numbers = Numbers(3);
    let unsorted: Vec<u64> = (0..LENGTH).map(|_| numbers.next()).collect();
    let mut sorted = unsorted.clone();
    work(move || {
        for _ in 0..20 {
            sorted.copy_from_slice(&unsorted);
            for gap in GAPS {
                for i in gap..LENGTH {
                    let value = sorted[i];
                    let mut at = i;
                    while at >= gap && sorted[at - gap] > value {
                        sorted[at] = sorted[at - gap];
                        at -= gap;
                    }
                    sorted[at] = value;
                }
            }
        }
        sorted.iter().fold(0, |sum: u64, value| sum.rotate_left(1) ^ value)
    })
}

/// The cheapest system call, a million times.
pub fn getppid() -> Work {
    work(|| {
        (0..1_000_000).filter(|_| black_box(std::os::unix::process::parent_id()) == u32::MAX).count() as u64
    })
}

/// A byte to another process and back.
pub fn pipe_ping_pong() -> Work {
    const TIMES: usize = 50_000;
    work(|| {
        let (mut there, mut to_there) = pipe().expect("a pipe");
        let (mut here, mut to_here) = pipe().expect("a pipe");
        let mut byte = [0];
        let pid = system::start(|| {
            let mut byte = [0];
            for _ in 0..TIMES {
                there.read_exact(&mut byte).expect("a ping");
                to_here.write_all(&[byte[0].wrapping_mul(5).wrapping_add(1)]).expect("a reader");
            }
            0
        });
        for _ in 0..TIMES {
            to_there.write_all(&byte).expect("a reader");
            here.read_exact(&mut byte).expect("a pong");
        }
        u64::from(byte[0]) << 8 | system::wait(pid) as u64
    })
}

/// Processes that end at once, one after another.
pub fn fork_exit() -> Work {
    work(|| {
        (0..2000)
            .map(|i| system::wait(system::start(|| i & 0x7f)))
            .fold(0, |sum, status| sum * 31 + status as u64)
    })
}

/// Processes that become a small program of the system, one after another.
pub fn fork_exec() -> Work {
    const PROGRAM: &str = "/usr/bin/true";
    read_in(&[PROGRAM]);
    let child = || {
        // It only returns if it fails.
        eprintln!("{PROGRAM}: {}", Command::new(PROGRAM).env_clear().exec());
        127
    };
    work(move || {
        (0..100).map(|_| system::wait(system::start(child))).fold(0, |sum, status| sum | status as u64)
    })
}

/// Memory had, touched and given back: a page fault for each page.
pub fn mmap_touch() -> Work {
    const PAGES: usize = 51_200;
    let once = || {
        // So large that the allocator asks the kernel, which gives pages of zeros.
        let mut memory = vec![0_u8; PAGES << 12];
        system::use_small_pages(&mut memory);
        for page in 0..PAGES {
            memory[page << 12] = 1;
        }
        black_box(&memory);
        PAGES as u64
    };
    work(move || once() + once())
}
