//! Devices whose ports are bytes: a wider access is made of one for each byte, in ascending order, as on an
//! 8-bit bus.

/// Reads each byte of an access.
pub(crate) fn read_bytes(port: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
        *byte = read(port);
    }
}

/// Writes each byte of an access.
pub(crate) fn write_bytes(port: u16, data: &[u8], mut write: impl FnMut(u16, u8)) {
    for (&byte, port) in data.iter().zip(port..=u16::MAX) {
        write(port, byte);
    }
}
