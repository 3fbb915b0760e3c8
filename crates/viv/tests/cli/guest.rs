//! A guest without an operating system, to run `viv` on.
//!
//! It is entered by the PVH protocol in 32-bit protected mode without paging, says `ready` on its first serial
//! port, and then obeys what it reads there: `q` powers off, `r` resets, `f` shuts the processor down by a
//! triple fault in long mode; everything else comes back as it was.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Where the guest is loaded and entered.
const START: u32 = 0x10_0000;

/// Where its triple fault is.
pub const FAULT: &str = "0x100083";

#[rustfmt::skip]
const CODE: &[u8] = &[
    0xbe, 0x8b, 0x00, 0x10, 0x00,             //        mov esi, text
    0x66, 0xba, 0xf8, 0x03,                   // say:   mov dx, 0x3f8 (the serial port's data)
    0xac,                                     //        lodsb
    0x84, 0xc0,                               //        test al, al
    0x74, 0x03,                               //        jz wait
    0xee,                                     //        out dx, al
    0xeb, 0xf4,                               //        jmp say
    0x66, 0xba, 0xfd, 0x03,                   // wait:  mov dx, 0x3fd (its line status)
    0xec,                                     //        in al, dx
    0xa8, 0x01,                               //        test al, 1 (something received)
    0x74, 0xf7,                               //        jz wait
    0x66, 0xba, 0xf8, 0x03,                   //        mov dx, 0x3f8
    0xec,                                     //        in al, dx
    0x3c, b'q',                               //        cmp al, 'q'
    0x74, 0x0b,                               //        je off
    0x3c, b'r',                               //        cmp al, 'r'
    0x74, 0x12,                               //        je reset
    0x3c, b'f',                               //        cmp al, 'f'
    0x74, 0x16,                               //        je fault
    0xee,                                     //        out dx, al
    0xeb, 0xe3,                               //        jmp wait
    0x66, 0xba, 0x04, 0x06,                   // off:   mov dx, 0x604 (ACPI's PM1a control)
    0x66, 0xb8, 0x00, 0x34,                   //        mov ax, 0x3400 (sleep type S5, enabled)
    0x66, 0xef,                               //        out dx, ax
    0xf4,                                     //        hlt
    0x66, 0xba, 0xf9, 0x0c,                   // reset: mov dx, 0xcf9 (reset control)
    0xb0, 0x06,                               //        mov al, 6
    0xee,                                     //        out dx, al
    0xf4,                                     //        hlt
    // The fault: into long mode, whose exceptions no interrupt table is there for.
    0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, // mov dword [0x1000], 0x2003: to the next table
    0xc7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, // mov dword [0x2000], 0x83: 1 GiB, writable
    0xb8, 0x00, 0x10, 0x00, 0x00,             //        mov eax, 0x1000
    0x0f, 0x22, 0xd8,                         //        mov cr3, eax
    0x0f, 0x20, 0xe0,                         //        mov eax, cr4
    0x0c, 0x20,                               //        or al, PAE
    0x0f, 0x22, 0xe0,                         //        mov cr4, eax
    0xb9, 0x80, 0x00, 0x00, 0xc0,             //        mov ecx, IA32_EFER
    0x0f, 0x32,                               //        rdmsr
    0x80, 0xcc, 0x01,                         //        or ah, LME
    0x0f, 0x30,                               //        wrmsr
    0x0f, 0x20, 0xc0,                         //        mov eax, cr0
    0x0d, 0x00, 0x00, 0x00, 0x80,             //        or eax, PG
    0x0f, 0x22, 0xc0,                         //        mov cr0, eax
    0x0f, 0x01, 0x1d, 0x85, 0x00, 0x10, 0x00, //        lidt [table]
    0x0f, 0x0b,                               //        ud2
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00,       // table: an interrupt table without entries
    b'r', b'e', b'a', b'd', b'y', b'\n', 0,   // text
];

/// The guest as an ELF file, which goes when this is dropped.
pub struct Guest {
    directory: TempDir,
}

impl Guest {
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("guest.elf"), elf(CODE)).expect("the guest");
        Self { directory }
    }

    /// A file beside the guest.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file beside the guest.
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// `viv run` on the guest, with these options.
    pub fn run(&self, options: &[&str]) -> Command {
        self.run_on("soft", options)
    }

    /// The same on the engine of this name.
    pub fn run_on(&self, engine: &str, options: &[&str]) -> Command {
        let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
        viv.current_dir(self.directory.path());
        viv.args(["run", "--memory", "16M", "--engine", engine, "--kernel", "guest.elf"]).args(options);
        viv
    }
}

/// A 32-bit ELF image of code (System V ABI, "Object Files") with Xen's note of its PVH entry.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const EHDR: u32 = 52;
    const PHDR: u32 = 32;
    let note_at = EHDR + 2 * PHDR;
    let note: Vec<u8> = [4_u32, 4, 18]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .chain(*b"Xen\0")
        .chain(START.to_le_bytes())
        .collect();
    let note_size = note.len() as u32;
    let code_at = note_at + note_size;
    let code_size = code.len() as u32;

    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, values: &[u16]| elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let word = |elf: &mut Vec<u8>, values: &[u32]| elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    half(&mut elf, &[2, 3]); // ET_EXEC, EM_386
    word(&mut elf, &[1, START, EHDR, 0, 0]);
    half(&mut elf, &[EHDR as u16, PHDR as u16, 2, 0, 0, 0]);
    // PT_LOAD and PT_NOTE: offset, virtual and physical address, sizes, flags, alignment.
    word(&mut elf, &[1, code_at, START, START, code_size, code_size, 7, 1]);
    word(&mut elf, &[4, note_at, 0, 0, note_size, note_size, 4, 4]);
    elf.extend(note);
    elf.extend(code);
    elf
}
