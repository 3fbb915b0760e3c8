#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <wmmintrin.h>
#include <fenv.h>

static int failures;
#define CHECK(c) do { if (!(c)) { failures++; printf("%s:%d: %s\n", __FILE__, __LINE__, #c); fflush(stdout);} } while (0)

static void vectors(void) {
	int in[8] = { 1, -2, 3, -4, 5, -6, 7, -8 }, out[8];
	__m256i v = _mm256_loadu_si256((void *)in);
	_mm256_storeu_si256((void *)out, _mm256_mullo_epi32(v, _mm256_permutevar8x32_epi32(v, _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7))));
	CHECK(out[0] == -8 && out[1] == -14 && out[7] == -8 && out[3] == -20);
	double a[4] = { 1.5, 2.5, 3.5, 1e300 }, d[4];
	__m256d x = _mm256_loadu_pd(a);
	_mm256_storeu_pd(d, _mm256_fmsub_pd(x, x, x));
	CHECK(d[0] == 0.75 && d[1] == 3.75 && d[2] == 8.75 && __builtin_isinf(d[3]));
	int index[8] = { 7, 6, 5, 4, 3, 2, 1, 0 };
	_mm256_storeu_si256((void *)out, _mm256_i32gather_epi32(in, _mm256_loadu_si256((void *)index), 4));
	CHECK(out[0] == -8 && out[7] == 1);
	int mask[8] = { -1, 0, -1, 0, 0, 0, 0, -1 };
	memset(out, 0x55, sizeof out);
	_mm256_maskstore_epi32(out, _mm256_loadu_si256((void *)mask), v);
	CHECK(out[0] == 1 && out[1] == 0x55555555 && out[7] == -8);
	CHECK(_mm256_movemask_epi8(_mm256_cmpgt_epi32(_mm256_setzero_si256(), v)) == (int)0xf0f0f0f0);
	float f[8];
	_mm256_storeu_ps(f, _mm256_cvtph_ps(_mm_set1_epi16(0x3e00)));
	CHECK(f[5] == 1.5f);
	_mm256_zeroupper();
}

/* FIPS-197, appendix B. */
static __m128i expand(__m128i key, __m128i assist) {
	assist = _mm_shuffle_epi32(assist, 0xff);
	for (int i = 0; i < 3; i++) key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
	return _mm_xor_si128(key, assist);
}
static void aes(void) {
	static const uint8_t key[16] = { 0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c };
	static const uint8_t plain[16] = { 0x32, 0x43, 0xf6, 0xa8, 0x88, 0x5a, 0x30, 0x8d, 0x31, 0x31, 0x98, 0xa2, 0xe0, 0x37, 0x07, 0x34 };
	static const uint8_t cipher[16] = { 0x39, 0x25, 0x84, 0x1d, 0x02, 0xdc, 0x09, 0xfb, 0xdc, 0x11, 0x85, 0x97, 0x19, 0x6a, 0x0b, 0x32 };
	__m128i k[11];
	k[0] = _mm_loadu_si128((void *)key);
#define ROUND(n, c) k[n] = expand(k[n - 1], _mm_aeskeygenassist_si128(k[n - 1], c))
	ROUND(1, 1); ROUND(2, 2); ROUND(3, 4); ROUND(4, 8); ROUND(5, 16); ROUND(6, 32); ROUND(7, 64); ROUND(8, 128); ROUND(9, 27); ROUND(10, 54);
	__m128i block = _mm_xor_si128(_mm_loadu_si128((void *)plain), k[0]);
	for (int i = 1; i < 10; i++) block = _mm_aesenc_si128(block, k[i]);
	block = _mm_aesenclast_si128(block, k[10]);
	CHECK(!memcmp(&block, cipher, 16));
	block = _mm_xor_si128(block, k[10]);
	for (int i = 9; i > 0; i--) block = _mm_aesdec_si128(block, _mm_aesimc_si128(k[i]));
	block = _mm_aesdeclast_si128(block, k[0]);
	CHECK(!memcmp(&block, plain, 16));
	__m128i p = _mm_clmulepi64_si128(_mm_set_epi64x(0, 0x8000000000000001), _mm_set_epi64x(0, 3), 0);
	CHECK(_mm_extract_epi64(p, 0) == (long long)0x8000000000000003 && _mm_extract_epi64(p, 1) == 1);
}

static sigjmp_buf back;
static char alternate[65536];
static volatile int caught, code, on_alternate;
static volatile uint64_t at, address, regs[23], error, trapno;
static void on_fault(int signal, siginfo_t *info, void *context) {
	ucontext_t *u = context;
	char here;
	asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
	on_alternate = &here > alternate && &here < alternate + sizeof alternate;
	caught = signal; code = info->si_code; address = (uint64_t)info->si_addr;
	for (int i = 0; i < 23; i++) regs[i] = u->uc_mcontext.gregs[i];
	at = regs[REG_RIP]; error = regs[REG_ERR]; trapno = regs[REG_TRAPNO];
	siglongjmp(back, 1);
}
#define FAULT(text, ...) do { caught = 0; if (!sigsetjmp(back, 1)) { asm volatile("leaq 0f(%%rip), %%r15; movq $0x1122334455667788, %%r12; " text __VA_ARGS__ : "rax", "rbx", "rcx", "rdx", "r12", "r15", "memory", "cc"); caught = -1; } } while (0)

static void faults(void) {
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
	CHECK(!sigaltstack(&stack, 0));
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	int all[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS };
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &action, 0);
#define EXACT (regs[REG_R15] == at && regs[REG_R12] == 0x1122334455667788 && on_alternate)
	FAULT("movl $0x40, %%ebx; 0: movq (%%rbx), %%rax", ::);
	CHECK(caught == SIGSEGV && code == SEGV_MAPERR && address == 0x40 && error == 4 && trapno == 14 && EXACT && regs[REG_RBX] == 0x40);
	FAULT("0: movb $1, (%0)", :: "r"(on_fault));
	CHECK(caught == SIGSEGV && code == SEGV_ACCERR && address == (uint64_t)on_fault && error == 7 && EXACT);
	FAULT("movabsq $0x8000000000000000, %%rbx; 0: movq (%%rbx), %%rax", ::);
	CHECK(caught == SIGSEGV && code == SI_KERNEL && trapno == 13 && error == 0 && EXACT);
	FAULT("xorl %%edx, %%edx; xorl %%ecx, %%ecx; 0: divq %%rcx", ::);
	CHECK(caught == SIGFPE && code == FPE_INTDIV && address == at && EXACT);
	FAULT("movabsq $0x8000000000000000, %%rax; cqto; movq $-1, %%rcx; 0: idivq %%rcx", ::);
	CHECK(caught == SIGFPE && code == FPE_INTDIV && EXACT);
	FAULT("0: ud2", ::);
	CHECK(caught == SIGILL && code == ILL_ILLOPN && EXACT);
	FAULT("0: .byte 0x06", ::);
	CHECK(caught == SIGILL && EXACT);
	FAULT("0: lock; .byte 0x89, 0xc0", ::);
	CHECK(caught == SIGILL && EXACT);
	FAULT("int3; 0:", ::);
	CHECK(caught == SIGTRAP && code == SI_KERNEL && EXACT);
	FAULT("int1; 0:", ::);
	CHECK(caught == SIGTRAP && EXACT);
	FAULT("pushfq; orl $0x100, (%%rsp); popfq; nop; 0: nop", ::);
	CHECK(caught == SIGTRAP && code == TRAP_TRACE && EXACT);
	FAULT("0: hlt", ::);
	CHECK(caught == SIGSEGV && trapno == 13 && EXACT);
	FAULT("0: int $0x21", ::);
	CHECK(caught == SIGSEGV && trapno == 13 && error == 0x21 * 8 + 2 && EXACT);
	FAULT("0: rdmsr", ::);
	CHECK(caught == SIGSEGV && trapno == 13 && EXACT);
	FAULT("0: cli", ::);
	CHECK(caught == SIGSEGV && trapno == 13 && EXACT);
	FAULT("0: movdqa 1(%0), %%xmm0", :: "r"(alternate));
	CHECK(caught == SIGSEGV && trapno == 13 && EXACT);
	FAULT("pushfq; orl $0x40000, (%%rsp); popfq; 0: movl 1(%0), %%eax; pushfq; andl $~0x40000, (%%rsp); popfq", :: "r"(alternate));
	CHECK(caught == SIGBUS && code == BUS_ADRALN && EXACT);
	/* Unmasked floating-point exceptions. */
	uint32_t mxcsr = 0x1f80 & ~0x200, quiet = 0x1f80;
	FAULT("ldmxcsr %0; xorps %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; psrld $25, %%xmm1; pslld $23, %%xmm1; 0: divss %%xmm0, %%xmm1", :: "m"(mxcsr));
	asm volatile("ldmxcsr %0" :: "m"(quiet));
	CHECK(caught == SIGFPE && code == FPE_FLTDIV && EXACT);
	uint16_t cw = 0x37f & ~4, plain = 0x37f;
	FAULT("fldcw %0; fld1; fldz; fdivrp; 0: fwait", :: "m"(cw));
	asm volatile("fnclex; fninit; fldcw %0" :: "m"(plain));
	CHECK(caught == SIGFPE && code == FPE_FLTDIV);
	FAULT("movq $0x1234, %%rax; 0: jmp *%%rax", ::);
	CHECK(caught == SIGSEGV && at == 0x1234 && address == 0x1234 && error == 0x14);
	FAULT("leaq %0, %%rax; 0: jmp *%%rax", :: "m"(alternate[0]));
	CHECK(caught == SIGSEGV && code == SEGV_ACCERR && error == 0x15 && at == (uint64_t)alternate);
}

static void jit(void) {
	uint8_t *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	uint32_t sum = 0;
	for (uint32_t i = 0; i < 2000; i++) {
		CHECK(!mprotect(page, 4096, PROT_READ | PROT_WRITE));
		page[0] = 0xb8; memcpy(page + 1, &i, 4); page[5] = 0xc3;
		CHECK(!mprotect(page, 4096, PROT_READ | PROT_EXEC));
		sum += ((uint32_t (*)(void))page)();
	}
	CHECK(sum == 1999000);
	/* Writable and executable at once: patched in place, also across the end of a page, and by itself. */
	CHECK(!mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC));
	uint8_t *code = page + 4096 - 3;
	code[0] = 0xb8; code[5] = 0xc3;
	sum = 0;
	for (uint32_t i = 0; i < 20000; i++) { memcpy(code + 1, &i, 4); sum += ((uint32_t (*)(void))code)(); }
	CHECK(sum == 199990000);
	/* movb $7, 1(%rip) ; movb imm patched right behind */
	static const uint8_t self[] = { 0xc6, 0x05, 1, 0, 0, 0, 7, 0xb8, 1, 0, 0, 0, 0xc3 };
	memcpy(page, self, sizeof self);
	for (int i = 0; i < 3; i++) { page[8] = 1; CHECK(((int (*)(void))page)() == 7); }
	/* The same code through another mapping. */
	int fd = memfd_create("jit", 0);
	CHECK(!ftruncate(fd, 4096));
	uint8_t *writable = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *runnable = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	writable[0] = 0xb8; writable[5] = 0xc3;
	for (uint32_t i = 0; i < 1000; i++) { memcpy(writable + 1, &i, 4); if (((uint32_t (*)(void))runnable)() != i) { CHECK(!"stale code"); break; } }
	munmap(page, 8192);
	/* Address reuse with other content. */
	for (uint32_t i = 0; i < 300; i++) {
		uint8_t *p = mmap((void *)0x700000000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		p[0] = 0xb8; memcpy(p + 1, &i, 4); p[5] = 0xc3;
		if (((uint32_t (*)(void))p)() != i) { CHECK(!"stale code after munmap"); break; }
		munmap(p, 4096);
	}
}

static void storm(void) {
	int shared = 0;
	int *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *big = malloc(1 << 20);
	memset(big, 1, 1 << 20);
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 20; i++)
			if (!fork()) {
				for (int j = 0; j < 1 << 20; j += 4096) big[j] += round + i;
				long sum = 0;
				for (int j = 0; j < 1 << 20; j += 4096) sum += big[j];
				__atomic_fetch_add(count, sum == 256 * (1 + round + i), __ATOMIC_SEQ_CST);
				_exit(0);
			}
		while (wait(0) > 0) shared++;
	}
	CHECK(shared == 200 && *count == 200 && big[4096] == 1);
	for (int i = 0; i < 20; i++) { pid_t p = vfork(); if (!p) { execl("/bin/true", "true", (char *)0); _exit(9); } int s; waitpid(p, &s, 0); CHECK(s == 0); }
}

static uint64_t now(clockid_t clock) { struct timespec t; clock_gettime(clock, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static volatile sig_atomic_t ticks;
static void on_tick(int s) { (void)s; ticks++; }
static void clocks(void) {
	uint64_t last = now(CLOCK_MONOTONIC), first = last, same = 0;
	for (int i = 0; i < 1000000; i++) {
		uint64_t t = now(CLOCK_MONOTONIC);
		if (t < last) { CHECK(!"time went back"); break; }
		same += t == last;
		last = t;
	}
	CHECK(last - first < 600ull * 1000000000 && same < 1000000);
	/* The vdso and the system call agree. */
	for (int i = 0; i < 1000; i++) {
		struct timespec t;
		uint64_t a = now(CLOCK_MONOTONIC);
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
		uint64_t b = now(CLOCK_MONOTONIC), s = t.tv_sec * 1000000000ull + t.tv_nsec;
		if (s < a || s > b) { CHECK(!"system call and vdso disagree"); break; }
	}
	uint64_t tsc = __rdtsc();
	for (int i = 0; i < 100000; i++) { uint64_t t = __rdtsc(); if (t < tsc) { CHECK(!"tsc went back"); break; } tsc = t; }
	static const long waits[] = { 0, 1000, 1000000, 20000000, 300000000 };
	for (unsigned i = 0; i < sizeof waits / sizeof *waits; i++) {
		struct timespec t = { 0, waits[i] };
		uint64_t begun = now(CLOCK_MONOTONIC);
		nanosleep(&t, 0);
		uint64_t took = now(CLOCK_MONOTONIC) - begun;
		CHECK(took >= (uint64_t)waits[i]);
		CHECK(took < (uint64_t)waits[i] + 5000000000);
	}
	signal(SIGALRM, on_tick);
	struct itimerval interval = { { 0, 10000 }, { 0, 10000 } }, none = { 0 };
	setitimer(ITIMER_REAL, &interval, 0);
	uint64_t begun = now(CLOCK_MONOTONIC);
	while (now(CLOCK_MONOTONIC) - begun < 500000000) ;
	setitimer(ITIMER_REAL, &none, 0);
	CHECK(ticks > 5 && ticks <= 60);
	CHECK(now(CLOCK_PROCESS_CPUTIME_ID) > 100000000);
	CHECK(now(CLOCK_REALTIME) > 1700000000ull * 1000000000);
	CHECK(sizeof(void *) == 8);
}

static __thread int mine;
static uint64_t total;
static __int128 wide;
static void *worker(void *a) { (void)a; for (int i = 0; i < 20000; i++) { mine++; __atomic_fetch_add(&total, 1, __ATOMIC_SEQ_CST); __int128 o, n; do { o = wide; n = o + 0x100000001; } while (!__sync_bool_compare_and_swap(&wide, o, n)); if (!(i % 1000)) sched_yield(); } return 0; }
static void threads(void) {
	pthread_t all[4];
	for (int i = 0; i < 4; i++) CHECK(!pthread_create(all + i, 0, worker, 0));
	for (int i = 0; i < 4; i++) pthread_join(all[i], 0);
	CHECK(total == 80000 && wide == (__int128)80000 * 0x100000001);
}

int main(int count, char **arguments) {
	static const struct { const char *name; void (*run)(void); } parts[] = {
		{ "vectors", vectors }, { "aes", aes }, { "faults", faults }, { "jit", jit },
		{ "storm", storm }, { "threads", threads }, { "clocks", clocks },
	};
	int known = 0;
	for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
		if (count == 2 && !strcmp(arguments[1], parts[i].name)) { known = 1; parts[i].run(); }
	if (known && !failures) puts("ok");
	return !known || failures;
}
