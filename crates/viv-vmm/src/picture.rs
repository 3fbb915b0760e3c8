//! Pictures of displays, in files.

use std::io::{self, Write};

use viv_devices::vga::Frame;

/// Writes a picture as PNG (ISO/IEC 15948).
pub(crate) fn write_png(frame: &Frame, out: impl Write) -> io::Result<()> {
    let side = |length: usize| u32::try_from(length).map_err(io::Error::other);
    let mut encoder = png::Encoder::new(out, side(frame.width)?, side(frame.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&frame.pixels)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_comes_back_as_it_was() {
        let frame = Frame { width: 3, height: 2, pixels: (0..18).collect() };
        let mut file = Vec::new();
        write_png(&frame, &mut file).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Rgb));
        assert_eq!(pixels, frame.pixels);
    }
}
