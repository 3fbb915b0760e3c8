// Litmus tests of the order in which processors see each other's memory accesses (SDM vol. 3, 9.2.3), and what else
// processors share: locked counters and clocks. Prints for each test how many rounds ran, and how many of them came
// out as they must not. With an argument, of clocks alone.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 2000, BATCHES = 100, THREADS = 4, LINE = 64 };

// A location has a cache line of its own.
struct line { volatile int value; } __attribute__((aligned(LINE)));
static struct line x[BATCH], y[BATCH];
static int seen[THREADS][2][BATCH];

typedef void step(int n);
struct litmus {
	const char *name;
	int threads;
	step *steps[THREADS];
	// Whether a round came out as it must not; or, if that is allowed, as is to be seen now and then.
	int (*is_bad)(int n);
	int is_allowed;
};

#define SEE(thread, which, location) \
	__asm__ volatile("movl %1, %0" : "=r"(seen[thread][which][n]) : "m"(location[n].value) : "memory")
#define WRITE(location, what) __asm__ volatile("movl %1, %0" : "=m"(location[n].value) : "i"(what) : "memory")
#define FENCE() __asm__ volatile("mfence" ::: "memory")
#define SWAP(location, what) \
	do { int old = what; __asm__ volatile("xchgl %0, %1" : "+r"(old), "+m"(location[n].value) :: "memory"); } while (0)
#define LOCKED() __asm__ volatile("lock; addl $0, -64(%%rsp)" ::: "memory", "cc")

static void mp0(int n) { WRITE(x, 1); WRITE(y, 1); }
static void mp1(int n) { SEE(1, 0, y); SEE(1, 1, x); }
static int mp(int n) { return seen[1][0][n] == 1 && seen[1][1][n] == 0; }

static void sb0(int n) { WRITE(x, 1); SEE(0, 0, y); }
static void sb1(int n) { WRITE(y, 1); SEE(1, 0, x); }
static int sb(int n) { return seen[0][0][n] == 0 && seen[1][0][n] == 0; }
static void fence0(int n) { WRITE(x, 1); FENCE(); SEE(0, 0, y); }
static void fence1(int n) { WRITE(y, 1); FENCE(); SEE(1, 0, x); }
static void swap0(int n) { SWAP(x, 1); SEE(0, 0, y); }
static void swap1(int n) { SWAP(y, 1); SEE(1, 0, x); }
static void locked0(int n) { WRITE(x, 1); LOCKED(); SEE(0, 0, y); }
static void locked1(int n) { WRITE(y, 1); LOCKED(); SEE(1, 0, x); }

static void lb0(int n) { SEE(0, 0, x); WRITE(y, 1); }
static void lb1(int n) { SEE(1, 0, y); WRITE(x, 1); }
static int lb(int n) { return seen[0][0][n] == 1 && seen[1][0][n] == 1; }

static void rr0(int n) { WRITE(x, 1); WRITE(x, 2); }
static void rr1(int n) { SEE(1, 0, x); SEE(1, 1, x); }
static int rr(int n) { return seen[1][0][n] > seen[1][1][n]; }

static void iriw0(int n) { WRITE(x, 1); }
static void iriw1(int n) { WRITE(y, 1); }
static void iriw2(int n) { SEE(2, 0, x); SEE(2, 1, y); }
static void iriw3(int n) { SEE(3, 0, y); SEE(3, 1, x); }
static int iriw(int n) {
	return seen[2][0][n] == 1 && seen[2][1][n] == 0 && seen[3][0][n] == 1 && seen[3][1][n] == 0;
}

static const struct litmus tests[] = {
	{ "message-passing", 2, { mp0, mp1 }, mp },
	{ "store-buffering", 2, { sb0, sb1 }, sb, 1 },
	{ "store-buffering-mfence", 2, { fence0, fence1 }, sb },
	{ "store-buffering-xchg", 2, { swap0, swap1 }, sb },
	{ "store-buffering-lock", 2, { locked0, locked1 }, sb },
	{ "load-buffering", 2, { lb0, lb1 }, lb },
	{ "read-read-coherence", 2, { rr0, rr1 }, rr },
	{ "independent-reads", 4, { iriw0, iriw1, iriw2, iriw3 }, iriw },
};

// Waits for all threads; gives way, for there may be fewer processors than threads.
static atomic_int arrived, generation;
static void meet(int threads) {
	int mine = atomic_load(&generation);
	if (atomic_fetch_add(&arrived, 1) + 1 == threads) {
		atomic_store(&arrived, 0);
		atomic_fetch_add(&generation, 1);
	} else {
		while (atomic_load(&generation) == mine) sched_yield();
	}
}

static void pin(int processor) {
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static const struct litmus *test;
static long bad;

static void *run(void *argument) {
	int me = (int)(intptr_t)argument;
	pin(me);
	for (int batch = 0; batch < BATCHES; batch++) {
		meet(test->threads);
		for (int n = 0; n < BATCH; n++) test->steps[me](n);
		meet(test->threads);
		if (me != 0) continue;
		for (int n = 0; n < BATCH; n++) {
			bad += test->is_bad(n);
			x[n].value = y[n].value = 0;
		}
	}
	return 0;
}

static void on_all(int threads, void *(*function)(void *)) {
	pthread_t all[THREADS];
	for (int i = 0; i < threads; i++)
		if (pthread_create(all + i, 0, function, (void *)(intptr_t)i)) exit(2);
	for (int i = 0; i < threads; i++) pthread_join(all[i], 0);
}

// Locked instructions of all kinds on the same memory.
enum { ROUNDS = 200000 };
static volatile int64_t sum, tickets, swapped;
static volatile struct { uint64_t low, high; } __attribute__((aligned(16))) wide;

static void *count(void *argument) {
	pin((int)(intptr_t)argument);
	for (int n = 0; n < ROUNDS; n++) {
		__asm__ volatile("lock; incq %0" : "+m"(sum) :: "memory", "cc");
		int64_t one = 1;
		__asm__ volatile("lock; xaddq %0, %1" : "+r"(one), "+m"(tickets) :: "memory", "cc");
		int64_t old = swapped;
		char done;
		do
			__asm__ volatile("lock; cmpxchgq %3, %1; sete %0"
				: "=q"(done), "+m"(swapped), "+a"(old) : "r"(old + 1) : "memory", "cc");
		while (!done);
		uint64_t low = wide.low, high = wide.high;
		do
			__asm__ volatile("lock; cmpxchg16b %1; sete %0"
				: "=q"(done), "+m"(wide), "+a"(low), "+d"(high) : "b"(low + 1), "c"(high + 2) : "memory", "cc");
		while (!done);
	}
	return 0;
}

// No processor's time stamp, and none of the system's, is behind what another one has said.
static atomic_ullong newest[2];
static atomic_long behind;

static void *clocks(void *argument) {
	pin((int)(intptr_t)argument);
	for (int n = 0; n < ROUNDS; n++) {
		for (int kind = 0; kind < 2; kind++) {
			unsigned long long before = atomic_load(&newest[kind]), now;
			if (kind == 0) {
				unsigned low, high;
				__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) :: "memory");
				now = (unsigned long long)high << 32 | low;
			} else {
				struct timespec time;
				clock_gettime(CLOCK_MONOTONIC, &time);
				now = time.tv_sec * 1000000000ull + time.tv_nsec;
			}
			if (now < before) atomic_fetch_add(&behind, 1);
			while (before < now && !atomic_compare_exchange_weak(&newest[kind], &before, now)) {}
		}
	}
	return 0;
}

static void all_clocks(void) {
	on_all(THREADS, clocks);
	printf("clocks %ld forbidden %ld\n", (long)THREADS * ROUNDS, atomic_load(&behind));
}

int main(int argc, char **argv) {
	(void)argv;
	if (argc > 1) return all_clocks(), 0;
	for (unsigned n = 0; n < sizeof tests / sizeof *tests; n++) {
		test = tests + n;
		bad = 0;
		on_all(test->threads, run);
		printf("%s %d %s %ld\n", test->name, BATCH * BATCHES, test->is_allowed ? "allowed" : "forbidden", bad);
		fflush(stdout);
	}
	on_all(THREADS, count);
	long all = (long)THREADS * ROUNDS;
	long lost = (sum != all) + (tickets != all) + (swapped != all)
		+ (wide.low != (uint64_t)all || wide.high != 2 * (uint64_t)all);
	printf("locked %ld forbidden %ld\n", all, lost);
	all_clocks();
}
