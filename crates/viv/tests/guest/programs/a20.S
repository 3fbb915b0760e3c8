# A boot sector that opens and closes the A20 gate by BIOS, by keyboard controller and by system control port A. On the
# serial line it says of each whether the line is open (o) or closed (c), of BIOS's question the answer.
	.code16
	.globl _start
_start:
	ljmp	$0, $begin
begin:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movw	$0x7c00, %sp
	decw	%ax
	movw	%ax, %es
	call	tell
	movw	$0x2400, %ax
	int	$0x15
	call	tell
	movw	$0x2402, %ax
	int	$0x15
	addb	$'0', %al
	call	put
	movw	$0x2401, %ax
	int	$0x15
	call	tell
	movb	$0xdd, %al
	outb	%al, $0x64
	call	tell
	movb	$0xdf, %al
	outb	%al, $0x64
	call	tell
	movb	$0, %al
	outb	%al, $0x92
	call	tell
	movb	$2, %al
	outb	%al, $0x92
	call	tell
	xorw	%ax, %ax
	outw	%ax, $0xf4
	# It may run on for a while.
wait:
	jmp	wait

tell:
	movb	$'o', 0x500
	movb	$'c', %es:0x510
	movb	0x500, %al
put:
	movw	$0x3f8, %dx
	outb	%al, %dx
	ret

	.org	510
	.word	0xaa55
