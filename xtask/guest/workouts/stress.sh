# stress-ng's other classes of work: memory, vectors, atomic instructions, signals, faults, processes, code that changes.
# 3 and 4 are what it ends with where the kernel has no such thing.
for stressor in vm vm-segv matrix matrix-3d vecmath vecwide vecfp vecshuf atomic lockbus mcontend mutex futex \
    membarrier signal sigfpe sigsegv sigtrap sigabrt sigchld bad-altstack fault stack stackmmap mmap mremap mprotect \
    munmap madvise mincore userfaultfd tlb-shootdown fork vfork clone exec pthread pipe switch context ptrace itimer \
    timer brk bigheap malloc memcpy memrate stream prefetch cache icache cacheline far-branch branch funccall funcret \
    longjmp goto nop opcode regs rotate fp hash crypt str wcs qsort heapsort mergesort radixsort shellsort tsearch \
    hsearch lsearch bsearch skiplist tree sparsematrix judy zlib tsc rdrand getrandom x86cpuid x86syscall syscall; do
    timeout -k 10 600 stress-ng --verify --metrics-brief "--$stressor" 4 --timeout 2 > log 2>&1
    status=$?
    case $status in
    0 | 3 | 4) echo "$stressor ok" ;;
    *)
        echo "$stressor ended with $status"
        cat log >&2
        ;;
    esac
done
