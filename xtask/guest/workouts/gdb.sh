# Breakpoints, single steps and the processor's watchpoints; addresses are the kernel's choice and not compared.
# The program steps through no function of the library, which has others for other processors.
cat > watched.c <<'X'
#include <stdio.h>
char buffer[64];
int value;
static int sum(int n)
{
    value += n;
    return n < 2 ? n : sum(n - 1) + sum(n - 2);
}
int main(void)
{
    for (int i = 0; i < 12; i++) {
        value = i;
        printf("%d\n", sum(i));
        for (unsigned at = 0; at < sizeof buffer; at++) buffer[at] = i;
    }
    return value == 0;
}
X
gcc -g -O0 -o watched watched.c || exit
cat > commands <<'X'
break sum if n == 7
run
backtrace
delete
watch value
continue
continue
delete
rwatch value
awatch buffer[40]
ignore 3 50
continue
continue
info breakpoints
delete
stepi 600
stepi
next
finish
continue
X
gdb -q -batch -nx -iex 'set debuginfod enabled off' -x commands watched 2>&1 | sed 's/0x[0-9a-f]*/ADDRESS/g; s/process [0-9]*/process/'
