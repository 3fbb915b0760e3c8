/* The 32-bit personality: system calls by both doors, x87, 64-bit arithmetic, setjmp, signals, threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int failures;
#define CHECK(c) do { if (!(c)) { failures++; printf("%s:%d: %s\n", __FILE__, __LINE__, #c); } } while (0)

static long by_int80(long n, long a, long b, long c) {
	long r;
	asm volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory");
	return r;
}

static long by_vdso(long n, long a, long b, long c) {
	long r;
	unsigned long door = getauxval(AT_SYSINFO);
	asm volatile("call *%%esi" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(door) : "memory");
	return r;
}

static void calls(void) {
	pid_t me = getpid();
	CHECK(getauxval(AT_SYSINFO) != 0);
	CHECK(by_int80(SYS_getpid, 0, 0, 0) == me);
	CHECK(by_vdso(SYS_getpid, 0, 0, 0) == me);
	CHECK(by_int80(SYS_close, 999, 0, 0) == -EBADF);
	CHECK(by_vdso(SYS_close, 999, 0, 0) == -EBADF);
	for (int i = 0; i < 2000; i++)
		if (by_vdso(SYS_getppid, 0, 0, 0) != getppid()) failures++;
}

static volatile double third = 1.0 / 3;
static void x87(void) {
	char text[64];
	long double x = 1.0L;
	for (int i = 1; i <= 25; i++) x *= i;
	snprintf(text, sizeof text, "%.0Lf", x);
	CHECK(!strcmp(text, "15511210043330985984000000"));
	snprintf(text, sizeof text, "%.12f %.12f", sin(third), exp(third));
	CHECK(!strcmp(text, "0.327194696796 1.395612425086"));
	snprintf(text, sizeof text, "%.15Lg", powl(2.5L, 31.0L));
	CHECK(!strcmp(text, "2168404344971.01"));
	uint16_t cw;
	asm("fnstcw %0" : "=m"(cw));
	CHECK(cw == 0x37f);
	CHECK(isnan(NAN) && isinf(HUGE_VAL) && lrint(2.5) == 2 && lrint(3.5) == 4);
}

static volatile uint64_t big = 0x123456789abcdef1;
static volatile int64_t negative = -9007199254740993;
static void long_long(void) {
	CHECK(big / 1000000007 == 1311768458);
	CHECK(big % 1000000007 == 281411115);
	CHECK((big / 12345) * 12345 + big % 12345 == big);
	CHECK((negative / 77) * 77 + negative % 77 == negative);
	CHECK(big * big == 0xca4ab582281edee1);
	CHECK((big << 37 >> 37) == (big & 0x7ffffff));
	CHECK((int64_t)(long double)negative == negative && (int64_t)(volatile float){negative} == -9007199254740992);
}

static sigjmp_buf back;
static volatile sig_atomic_t caught, caught_code;
static volatile uint32_t caught_eip, caught_address, caught_ebx;
static void on_fault(int signal, siginfo_t *info, void *context) {
	ucontext_t *u = context;
	caught = signal;
	caught_code = info->si_code;
	caught_eip = u->uc_mcontext.gregs[REG_EIP];
	caught_ebx = u->uc_mcontext.gregs[REG_EBX];
	caught_address = (uint32_t)info->si_addr;
	siglongjmp(back, 1);
}

static void faults(void) {
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	int all[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS };
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &action, 0);
	if (!sigsetjmp(back, 1)) { asm volatile("movl $0x5eed, %%ebx; movl (%0), %%eax" :: "r"(0x20) : "eax", "ebx"); CHECK(0); }
	CHECK(caught == SIGSEGV && caught_address == 0x20 && caught_ebx == 0x5eed && caught_code == SEGV_MAPERR);
	if (!sigsetjmp(back, 1)) { asm volatile("xorl %%edx, %%edx; xorl %%ecx, %%ecx; divl %%ecx" ::: "eax", "ecx", "edx"); CHECK(0); }
	CHECK(caught == SIGFPE && caught_code == FPE_INTDIV);
	if (!sigsetjmp(back, 1)) { asm volatile("ud2"); CHECK(0); }
	CHECK(caught == SIGILL);
	if (!sigsetjmp(back, 1)) { asm volatile("int3"); CHECK(0); }
	CHECK(caught == SIGTRAP);
	if (!sigsetjmp(back, 1)) { asm volatile("movl $0x7fffffff, %%eax; addl $1, %%eax; into" ::: "eax"); CHECK(0); }
	CHECK(caught == SIGSEGV);
	if (!sigsetjmp(back, 1)) { asm volatile("boundl %0, %1" :: "r"(9), "m"(*(long[2]){1, 5})); CHECK(0); }
	CHECK(caught == SIGSEGV);
	if (!sigsetjmp(back, 1)) { asm volatile("hlt"); CHECK(0); }
	CHECK(caught == SIGSEGV);
	if (!sigsetjmp(back, 1)) { asm volatile("movw $0x1234, %%ax; movw %%ax, %%fs" ::: "eax"); CHECK(0); }
	CHECK(caught == SIGSEGV);
	if (!sigsetjmp(back, 1)) { asm volatile("inb $0x80, %%al" ::: "eax"); CHECK(0); }
	CHECK(caught == SIGSEGV);
	/* Forms that 64-bit mode does not have. */
	uint32_t a = 0x1234;
	asm volatile("movb $0x59, %%al; addb $0x68, %%al; daa; movzbl %%al, %0" : "=r"(a) :: "eax", "cc");
	CHECK(a == 0x27);
	asm volatile("movl $0x050f, %%eax; aam; movl %%eax, %0" : "=r"(a) :: "eax", "cc");
	CHECK((a & 0xffff) == 0x0105);
	asm volatile("movl $11, %%eax; pushal; movl $1, %%eax; popal; movl %%eax, %0" : "=r"(a) :: "eax", "memory");
	CHECK(a == 11);
	asm volatile("pushw %%ds; popw %%es; lesl %1, %%eax; movl %%eax, %0; pushl %%ds; popl %%es" : "=r"(a) : "m"(*(struct { uint32_t o; uint16_t s; } *)&(struct { uint32_t o; uint16_t s; }){ 77, 0x2b }) : "eax");
	CHECK(a == 77);
}

static __thread int mine;
static int shared;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *worker(void *argument) {
	for (int i = 0; i < 5000; i++) {
		mine++;
		pthread_mutex_lock(&lock);
		shared++;
		pthread_mutex_unlock(&lock);
		__atomic_fetch_add((uint64_t *)argument, 3, __ATOMIC_SEQ_CST);
	}
	return (void *)(intptr_t)mine;
}

static void threads(void) {
	pthread_t all[6];
	static uint64_t sum;
	for (int i = 0; i < 6; i++) CHECK(!pthread_create(all + i, 0, worker, &sum));
	for (int i = 0; i < 6; i++) { void *r; pthread_join(all[i], &r); CHECK((intptr_t)r == 5000); }
	CHECK(shared == 30000 && sum == 90000 && mine == 0);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int s) { (void)s; alarms++; }
static void processes(void) {
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();
		if (!child) _exit(i);
		int status;
		CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == i);
	}
	signal(SIGALRM, on_alarm);
	alarm(1);
	pause();
	CHECK(alarms == 1);
	struct timespec t;
	CHECK(!clock_gettime(CLOCK_MONOTONIC, &t) && t.tv_sec > 0);
}

int main(void) {
	CHECK(sizeof(void *) == 4);
	calls(); x87(); long_long(); faults(); threads(); processes();
	if (!failures) puts("ok");
	return failures != 0;
}
