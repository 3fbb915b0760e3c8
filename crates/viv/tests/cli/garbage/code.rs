//! What writes the garbage: one program, as a PVH kernel and as firmware.
//!
//! It counts its starts in the clock's RAM, which outlives a reset, and powers off at the ninth. With a second processor it
//! starts that too, which does the same with other numbers. Both write to every port in no order, to every page from
//! 2 GiB on, and then `count` times to any of them, numbers of one, two or four bytes, or read. Then the machine is
//! switched off.

/// What the program is to do.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// Where its random numbers begin.
    pub seed: u32,
    /// How many accesses are made to any port or page, after each was accessed.
    pub count: u32,
    /// Whether it writes to the ports that end or reset the machine too.
    pub bold: bool,
    /// Whether it writes to the local APIC.
    pub apic: bool,
    /// Whether there is a second processor.
    pub second: bool,
}

/// Where the parameters are.
const PARAMETERS: usize = 4;
/// How much firmware there is: what lies below 4 GiB and, once more, below 1 MiB.
const FIRMWARE: usize = 64 << 10;
/// Where the processor starts with firmware.
const RESET: usize = FIRMWARE - 16;
/// Where firmware's own part of the program begins.
const REAL_MODE: usize = 0x276;

/// The program as a kernel.
pub fn kernel(parameters: Parameters) -> Vec<u8> {
    crate::guest::elf(&program(parameters))
}

/// The program as firmware.
pub fn firmware(parameters: Parameters) -> Vec<u8> {
    let mut image = program(parameters);
    image.resize(FIRMWARE, 0);
    // jmp reset
    let [low, high, ..] = REAL_MODE.wrapping_sub(RESET + 3).to_le_bytes();
    image[RESET..RESET + 3].copy_from_slice(&[0xe9, low, high]);
    image
}

fn program(parameters: Parameters) -> Vec<u8> {
    let Parameters { seed, count, bold, apic, second } = parameters;
    let flags = u32::from(bold) | u32::from(apic) << 1 | u32::from(second) << 2;
    let mut code = CODE.to_vec();
    let words = [seed, count, flags].map(u32::to_le_bytes).concat();
    code[PARAMETERS..PARAMETERS + words.len()].copy_from_slice(&words);
    code
}

#[rustfmt::skip]
const CODE: &[u8] = &[
    0xeb, 0x0e,                                      // start:   jmp begin
    0x66, 0x90,                                      //          (alignment)
    0x00, 0x00, 0x00, 0x00,                          // seed:    .long 0
    0x00, 0x00, 0x00, 0x00,                          // count:   .long 0
    0x00, 0x00, 0x00, 0x00,                          // flags:   .long 0
    0xbc, 0x00, 0x80, 0x00, 0x00,                    // begin:   mov esp, 0x8000
    0xe8, 0x00, 0x00, 0x00, 0x00,                    //          call here
    0x5e,                                            // here:    pop esi
    0x81, 0xee, 0x1a, 0x00, 0x00, 0x00,              //          sub esi, offset here - start
    0xb0, 0x60,                                      //          mov al, 0x60
    0xe6, 0x70,                                      //          out 0x70, al
    0xe4, 0x71,                                      //          in al, 0x71 (how often it has begun, in the clock's RAM)
    0x0f, 0xb6, 0xd8,                                //          movzx ebx, al
    0x40,                                            //          inc eax
    0xe6, 0x71,                                      //          out 0x71, al
    0x80, 0xfb, 0x08,                                //          cmp bl, 8 (that is enough)
    0x0f, 0x83, 0xe9, 0x00, 0x00, 0x00,              //          jae off
    0x69, 0xdb, 0xb9, 0x79, 0x37, 0x9e,              //          imul ebx, ebx, 0x9e3779b9 (another garbage each time)
    0x03, 0x9e, 0x04, 0x00, 0x00, 0x00,              //          add ebx, [esi + seed - start]
    0x83, 0xcb, 0x01,                                //          or ebx, 1
    0xf6, 0x86, 0x0c, 0x00, 0x00, 0x00, 0x04,        //          test byte ptr [esi + flags - start], 4
    0x74, 0x2f,                                      //          jz garbage
    0x56,                                            //          push esi
    0x89, 0xf0,                                      //          mov eax, esi
    0x81, 0xc6, 0x10, 0x02, 0x00, 0x00,              //          add esi, offset second - start
    0xbf, 0x00, 0x70, 0x00, 0x00,                    //          mov edi, 0x7000
    0xb9, 0x66, 0x00, 0x00, 0x00,                    //          mov ecx, offset end - second
    0xf3, 0xa4,                                      //          rep movsb (what the second processor begins with)
    0xa3, 0x44, 0x70, 0x00, 0x00,                    //          mov [0x7000 + base - second], eax
    0x5e,                                            //          pop esi
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45,  //          mov dword ptr ds:[0xfee00300], 0xc4500 (INIT)
    0x0c, 0x00,
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x07, 0x46,  //          mov dword ptr ds:[0xfee00300], 0xc4607 (SIPI: at 0x7000)
    0x0c, 0x00,
    0x8d, 0x86, 0x2c, 0x01, 0x00, 0x00,              // garbage: lea eax, [esi + nmi - start]
    0xba, 0x00, 0x50, 0x00, 0x00,                    //          mov edx, 0x5000
    0x66, 0x89, 0x42, 0x10,                          //          mov [edx + 16], ax
    0x8c, 0x4a, 0x12,                                //          mov [edx + 18], cs
    0x66, 0xc7, 0x42, 0x14, 0x00, 0x8e,              //          mov word ptr [edx + 20], 0x8e00
    0xc1, 0xe8, 0x10,                                //          shr eax, 16
    0x66, 0x89, 0x42, 0x16,                          //          mov [edx + 22], ax
    0x66, 0xc7, 0x42, 0x18, 0x17, 0x00,              //          mov word ptr [edx + 24], 23
    0x89, 0x52, 0x1a,                                //          mov [edx + 26], edx
    0x0f, 0x01, 0x5a, 0x18,                          //          lidt [edx + 24] (nothing but an NMI is survived)
    0x31, 0xed,                                      //          xor ebp, ebp
    0x69, 0xd5, 0x37, 0x9e, 0x00, 0x00,              // ports:   imul edx, ebp, 40503 (every port, in no order)
    0xe8, 0x77, 0x00, 0x00, 0x00,                    //          call port
    0x45,                                            //          inc ebp
    0x81, 0xfd, 0x00, 0x00, 0x01, 0x00,              //          cmp ebp, 0x10000
    0x72, 0xec,                                      //          jb ports
    0xbd, 0x00, 0x00, 0x00, 0x80,                    //          mov ebp, 0x80000000 (every page from 2 GiB on)
    0xe8, 0xda, 0x00, 0x00, 0x00,                    // pages:   call next
    0x89, 0xc7,                                      //          mov edi, eax
    0x81, 0xe7, 0xfc, 0x0f, 0x00, 0x00,              //          and edi, 0xffc
    0x01, 0xef,                                      //          add edi, ebp
    0xe8, 0x96, 0x00, 0x00, 0x00,                    //          call memory
    0x81, 0xc5, 0x00, 0x10, 0x00, 0x00,              //          add ebp, 0x1000
    0x75, 0xe4,                                      //          jnz pages
    0x8b, 0xae, 0x08, 0x00, 0x00, 0x00,              //          mov ebp, [esi + count - start] (any of it, again and again)
    0xe8, 0xb8, 0x00, 0x00, 0x00,                    // mixed:   call next
    0x89, 0xc2,                                      //          mov edx, eax
    0xa9, 0x00, 0x00, 0x07, 0x00,                    //          test eax, 0x70000
    0x74, 0x23,                                      //          jz any
    0xc1, 0xe8, 0x14,                                //          shr eax, 20
    0x83, 0xe0, 0x07,                                //          and eax, 7
    0x8d, 0x8c, 0xc6, 0xd0, 0x01, 0x00, 0x00,        //          lea ecx, [esi + eax * 8 + areas - start]
    0xe8, 0x9d, 0x00, 0x00, 0x00,                    //          call next
    0xc1, 0xe8, 0x04,                                //          shr eax, 4
    0x89, 0xc7,                                      //          mov edi, eax
    0x23, 0x79, 0x04,                                //          and edi, [ecx + 4]
    0x03, 0x39,                                      //          add edi, [ecx]
    0xe8, 0x59, 0x00, 0x00, 0x00,                    //          call memory
    0xeb, 0x05,                                      //          jmp counted
    0xe8, 0x11, 0x00, 0x00, 0x00,                    // any:     call port
    0x4d,                                            // counted: dec ebp
    0x75, 0xc7,                                      //          jnz mixed
    0x66, 0xba, 0x04, 0x06,                          // off:     mov dx, 0x604 (power off)
    0x66, 0xb8, 0x00, 0x34,                          //          mov ax, 0x3400
    0x66, 0xef,                                      //          out dx, ax
    0xf4,                                            // rest:    hlt
    0xeb, 0xfd,                                      //          jmp rest
    0xcf,                                            // nmi:     iretd
    0x0f, 0xb7, 0xd2,                                // port:    movzx edx, dx
    0xf6, 0x86, 0x0c, 0x00, 0x00, 0x00, 0x01,        //          test byte ptr [esi + flags - start], 1
    0x75, 0x1a,                                      //          jnz bold
    0x8d, 0x8e, 0xbb, 0x01, 0x00, 0x00,              //          lea ecx, [esi + shy - start]
    0x0f, 0xb7, 0x01,                                // again:   movzx eax, word ptr [ecx]
    0x85, 0xc0,                                      //          test eax, eax
    0x74, 0x0d,                                      //          jz bold
    0xf7, 0xd8,                                      //          neg eax
    0x01, 0xd0,                                      //          add eax, edx
    0x83, 0xc1, 0x02,                                //          add ecx, 2
    0x83, 0xf8, 0x04,                                //          cmp eax, 4
    0x73, 0xed,                                      //          jae again
    0xc3,                                            //          ret
    0xe8, 0x4b, 0x00, 0x00, 0x00,                    // bold:    call next
    0x89, 0xd9,                                      //          mov ecx, ebx
    0xc1, 0xe9, 0x1e,                                //          shr ecx, 30
    0x74, 0x0d,                                      //          jz input
    0x49,                                            //          dec ecx
    0x74, 0x08,                                      //          jz outb
    0x49,                                            //          dec ecx
    0x74, 0x02,                                      //          jz outw
    0xef,                                            //          out dx, eax
    0xc3,                                            //          ret
    0x66, 0xef,                                      // outw:    out dx, ax
    0xc3,                                            //          ret
    0xee,                                            // outb:    out dx, al
    0xc3,                                            //          ret
    0xed,                                            // input:   in eax, dx
    0xc3,                                            //          ret
    0xf6, 0x86, 0x0c, 0x00, 0x00, 0x00, 0x02,        // memory:  test byte ptr [esi + flags - start], 2
    0x75, 0x0d,                                      //          jnz touch
    0x89, 0xf8,                                      //          mov eax, edi
    0xc1, 0xe8, 0x0c,                                //          shr eax, 12
    0x3d, 0x00, 0xee, 0x0f, 0x00,                    //          cmp eax, 0xfee00
    0x75, 0x01,                                      //          jne touch
    0xc3,                                            //          ret
    0xe8, 0x1a, 0x00, 0x00, 0x00,                    // touch:   call next
    0x89, 0xd9,                                      //          mov ecx, ebx
    0xc1, 0xe9, 0x1e,                                //          shr ecx, 30
    0x74, 0x10,                                      //          jz load
    0x49,                                            //          dec ecx
    0x74, 0x0a,                                      //          jz store8
    0x49,                                            //          dec ecx
    0x74, 0x03,                                      //          jz store16
    0x89, 0x07,                                      //          mov [edi], eax
    0xc3,                                            //          ret
    0x66, 0x89, 0x07,                                // store16: mov [edi], ax
    0xc3,                                            //          ret
    0x88, 0x07,                                      // store8:  mov [edi], al
    0xc3,                                            //          ret
    0x8b, 0x07,                                      // load:    mov eax, [edi]
    0xc3,                                            //          ret
    0x89, 0xd8,                                      // next:    mov eax, ebx
    0xc1, 0xe0, 0x0d,                                //          shl eax, 13
    0x31, 0xc3,                                      //          xor ebx, eax
    0x89, 0xd8,                                      //          mov eax, ebx
    0xc1, 0xe8, 0x11,                                //          shr eax, 17
    0x31, 0xc3,                                      //          xor ebx, eax
    0x89, 0xd8,                                      //          mov eax, ebx
    0xc1, 0xe0, 0x05,                                //          shl eax, 5
    0x31, 0xc3,                                      //          xor ebx, eax
    0x89, 0xd8,                                      //          mov eax, ebx
    0xc3,                                            //          ret
    0x5d, 0x00, 0x61, 0x00, 0x8f, 0x00, 0x01, 0x06,  // shy:     .word 0x5d, 0x61, 0x8f, 0x601, 0x502, 0x605, 0xcf5, 0xcf6, 0xcf9, 0
    0x02, 0x05, 0x05, 0x06, 0xf5, 0x0c, 0xf6, 0x0c,
    0xf9, 0x0c, 0x00, 0x00,
    0x90,                                            //          (alignment)
    0x00, 0x00, 0x0a, 0x00, 0xff, 0xff, 0x01, 0x00,  // areas:   .long 0x000a0000, 0x1ffff
    0x00, 0x00, 0x00, 0x80, 0xff, 0xff, 0x0f, 0x00,  //          .long 0x80000000, 0xfffff
    0x00, 0x00, 0x00, 0xe0, 0xff, 0xff, 0x03, 0x00,  //          .long 0xe0000000, 0x3ffff
    0x00, 0x80, 0x0f, 0xe0, 0xff, 0x7f, 0x00, 0x00,  //          .long 0xe00f8000, 0x7fff
    0x00, 0x00, 0xc0, 0xfe, 0x3f, 0x00, 0x00, 0x00,  //          .long 0xfec00000, 0x3f
    0x00, 0x00, 0xd0, 0xfe, 0xff, 0x03, 0x00, 0x00,  //          .long 0xfed00000, 0x3ff
    0x00, 0x00, 0xe0, 0xfe, 0xff, 0x0f, 0x00, 0x00,  //          .long 0xfee00000, 0xfff
    0x00, 0x00, 0xf0, 0xff, 0xfc, 0xff, 0x0f, 0x00,  //          .long 0xfff00000, 0xffffc
    0x31, 0xc0,                                      // second:  xor ax, ax
    0x8e, 0xd8,                                      //          mov ds, ax
    0x66, 0x0f, 0x01, 0x16, 0x48, 0x70,              //          data32 lgdt ds:[0x7000 + pointer - second]
    0x0f, 0x20, 0xc0,                                //          mov eax, cr0
    0x0c, 0x01,                                      //          or al, 1
    0x0f, 0x22, 0xc0,                                //          mov cr0, eax
    0x66, 0xea, 0x1a, 0x70, 0x00, 0x00, 0x08, 0x00,  //          data32 ljmp 8, 0x7000 + level - second
    0x66, 0xb8, 0x10, 0x00,                          // level:   mov ax, 16
    0x8e, 0xd8,                                      //          mov ds, ax
    0x8e, 0xd0,                                      //          mov ss, ax
    0x8e, 0xc0,                                      //          mov es, ax
    0xbc, 0x00, 0x60, 0x00, 0x00,                    //          mov esp, 0x6000
    0x8b, 0x35, 0x44, 0x70, 0x00, 0x00,              //          mov esi, ds:[0x7000 + base - second]
    0x8b, 0x9e, 0x04, 0x00, 0x00, 0x00,              //          mov ebx, [esi + seed - start]
    0xf7, 0xd3,                                      //          not ebx
    0x83, 0xcb, 0x01,                                //          or ebx, 1
    0x8d, 0x86, 0x7d, 0x00, 0x00, 0x00,              //          lea eax, [esi + garbage - start]
    0xff, 0xe0,                                      //          jmp eax
    0x66, 0x90,                                      //          (alignment)
    0x00, 0x00, 0x00, 0x00,                          // base:    .long 0
    0x17, 0x00,                                      // pointer: .word 23
    0x4e, 0x70, 0x00, 0x00,                          //          .long 0x7000 + table - second
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // table:   .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x9c, 0x02,        // reset:   data32 lgdt cs:[rompointer - start]
    0x0f, 0x20, 0xc0,                                //          mov eax, cr0
    0x0c, 0x01,                                      //          or al, 1
    0x0f, 0x22, 0xc0,                                //          mov cr0, eax
    0x66, 0xea, 0x8d, 0x02, 0xff, 0xff, 0x08, 0x00,  //          data32 ljmp 8, 0xffff0000 + romflat - start
    0x66, 0xb8, 0x10, 0x00,                          // romflat: mov ax, 16
    0x8e, 0xd8,                                      //          mov ds, ax
    0x8e, 0xd0,                                      //          mov ss, ax
    0x8e, 0xc0,                                      //          mov es, ax
    0xe9, 0x64, 0xfd, 0xff, 0xff,                    //          jmp start
    0x17, 0x00,                                      // rompointer: .word 23
    0x5e, 0x02, 0xff, 0xff,                          //          .long 0xffff0000 + table - start
];
