# Firmware for a PC that keeps pages in step: it writes a counter to the first word of PAGES pages, STEP bytes apart, in
# ascending order, then counts up and begins again. Whoever sees all of them at one moment sees a number in the first
# few, and one less in the others. The counter is in EAX.
#
#   as --32 -o sweep.o sweep.S && ld -m elf_i386 -Ttext 0xffffff00 --oformat binary -o sweep.bin sweep.o
        .set FIRST, 0x00100000
        .set STEP, 0x00100000
        .set PAGES, 48
        .set START, 0xff00              # of the code, in the segment that the processor begins in

        .code16
        .globl _start
_start: cli
        lgdtl %cs:(gdtr - _start + START)
        movl %cr0, %ebx
        orb $1, %bl
        movl %ebx, %cr0
        ljmpl $8, $flat

        .code32
flat:   movl $16, %ebx
        movl %ebx, %ds
        xorl %eax, %eax
sweep:  incl %eax
        movl $FIRST, %edi
        movl $PAGES, %ecx
1:      movl %eax, (%edi)
        addl $STEP, %edi
        loop 1b
        jmp sweep

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        # code: 32 bit, all of the address space
        .quad 0x00cf93000000ffff        # data
gdtr:   .word gdtr - gdt - 1
        .long gdt

        .org 0xf0
        .code16
        jmp _start                      # where the processor begins: 0xfffffff0
        .org 0x100
