//! IN and OUT.

use viv_arch::Gpr;

use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::ram::Int;

impl Cpu {
    /// Checks the right to `size` ports from `port`: by IOPL, else, and always in virtual-8086 mode, by the TSS's permission
    /// map (SDM vol. 1, 19.5).
    pub fn check_port(&mut self, port: u16, size: u64) -> Exec {
        if self.may_change_if() && !self.is_v86() {
            return Ok(());
        }
        let tss = self.tr;
        if !matches!(tss.kind(), 9 | 11) || u64::from(tss.limit) < 0x67 {
            return self.gp0();
        }
        let map = u64::from(self.load_system::<u16>(self.within_table(tss.base, 0x66))?);
        let at = map + u64::from(port >> 3);
        if at + 1 > u64::from(tss.limit) {
            return self.gp0();
        }
        let bits = self.load_system::<u16>(self.within_table(tss.base, at))?;
        let mask = ((1u32 << size) - 1) << (port & 7);
        if u32::from(bits) & mask != 0 {
            return self.gp0();
        }
        Ok(())
    }

    /// Reads a port.
    pub fn port_in<T: Int>(&mut self, port: u16) -> T {
        self.note_port(port, T::SIZE);
        let mut bytes = [0; 8];
        self.platform.port_read(port, &mut bytes[..T::SIZE as usize]);
        T::from_u64(u64::from_le_bytes(bytes))
    }

    /// Writes a port.
    pub fn port_out<T: Int>(&mut self, port: u16, value: T) {
        self.note_port(port, T::SIZE);
        self.platform.port_write(port, &value.to_u64().to_le_bytes()[..T::SIZE as usize]);
        // The A20 gate holds for the next instruction already.
        if self.shared.address_lines() != self.address_lines {
            self.op_end = std::ptr::null();
        }
    }
}

/// The port: `imm`, or DX if `aux` is not 0.
fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.aux == 0 { op.imm as u16 } else { cpu.get::<u16>(Gpr::Rdx as u8 * 8) }
}

pub fn input<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    cpu.check_port(port, T::SIZE)?;
    let value = cpu.port_in::<T>(port);
    cpu.put(0, value);
    Ok(())
}

pub fn output<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    cpu.check_port(port, T::SIZE)?;
    let value = cpu.get::<T>(0);
    cpu.port_out(port, value);
    Ok(())
}
