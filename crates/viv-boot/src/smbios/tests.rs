use super::*;

const GIB: u64 = 1 << 30;

/// A machine with all there is.
pub fn parameters() -> SmbiosParameters {
    SmbiosParameters {
        identity: SystemIdentity {
            manufacturer: "ACME".to_owned(),
            product: "Anvil".to_owned(),
            version: "7".to_owned(),
            serial: "S-1".to_owned(),
            uuid: std::array::from_fn(|n| n as u8),
            sku: "K-2".to_owned(),
            family: "Tools".to_owned(),
        },
        cpus: 4,
        memory: vec![0..3 * GIB, 4 * GIB..6 * GIB],
    }
}

/// A structure: type, handle, formatted part, strings.
type Parsed = (u8, u16, Vec<u8>, Vec<String>);

/// Takes structures apart as a guest does.
fn parse(mut bytes: &[u8]) -> Vec<Parsed> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (formatted, rest) = bytes.split_at(bytes[1].into());
        let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings = rest[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
        let strings = strings.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        let handle = u16::from_le_bytes([formatted[2], formatted[3]]);
        all.push((formatted[0], handle, formatted.to_vec(), strings));
        bytes = &rest[end + 2..];
    }
    all
}

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes[offset..offset + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn structures_have_the_lengths_of_their_version() {
    let all = parse(build(&parameters()).unwrap().structures());
    let kinds: Vec<_> = all.iter().map(|(kind, _, formatted, _)| (*kind, formatted.len())).collect();
    assert_eq!(
        kinds,
        [(0, 24), (1, 27), (3, 22), (4, 48), (16, 23), (17, 40), (19, 31), (19, 31), (32, 11), (127, 4)]
    );
    let mut handles: Vec<_> = all.iter().map(|(_, handle, ..)| *handle).collect();
    handles.dedup();
    assert_eq!(handles.len(), all.len());
}

#[test]
fn the_system_is_who_it_is_said_to_be() {
    let all = parse(build(&parameters()).unwrap().structures());
    let (_, _, formatted, strings) = &all[1];
    assert_eq!(strings, &["ACME", "Anvil", "7", "S-1", "K-2", "Tools"]);
    assert_eq!(formatted[4..8], [1, 2, 3, 4]);
    assert_eq!(formatted[8..24], [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(formatted[25..], [5, 6]);

    let nameless = SmbiosParameters { identity: SystemIdentity::default(), ..parameters() };
    let all = parse(build(&nameless).unwrap().structures());
    assert_eq!((all[1].3.len(), &all[1].2[4..8]), (3, &[1, 2, 3, 0][..]), "no string for nothing");
}

#[test]
fn memory_and_processors_are_told() {
    let all = parse(build(&parameters()).unwrap().structures());
    assert_eq!((number(&all[4].2, 7, 4), number(&all[5].2, 12, 2)), (5 << 20, 5 << 10));
    assert_eq!((number(&all[6].2, 4, 4), number(&all[6].2, 8, 4)), (0, (3 << 20) - 1));
    assert_eq!((number(&all[7].2, 4, 4), number(&all[7].2, 8, 4)), (4 << 20, (6 << 20) - 1));
    assert_eq!((all[3].2[35], number(&all[3].2, 42, 2)), (4, 4));

    let large = SmbiosParameters { cpus: 300, memory: vec![0..3 * GIB, 4 * GIB..5000 * GIB], ..parameters() };
    let all = parse(build(&large).unwrap().structures());
    let size = 4999 * GIB;
    assert_eq!((number(&all[4].2, 7, 4), number(&all[4].2, 15, 8)), (0x8000_0000, size));
    assert_eq!((number(&all[5].2, 12, 2), number(&all[5].2, 28, 4)), (0x7fff, size >> 20));
    assert_eq!((number(&all[7].2, 4, 4), number(&all[7].2, 15, 8)), (0xffff_ffff, 4 * GIB));
    assert_eq!(number(&all[7].2, 23, 8), 5000 * GIB - 1);
    assert_eq!((all[3].2[35], number(&all[3].2, 42, 2)), (255, 300));
}

#[test]
fn anchors_lead_to_the_structures() {
    let tables = build(&parameters()).unwrap();
    let length = tables.structures().len() as u64;
    let bytes = tables.placed(&ANCHOR_AREA).unwrap();
    let (wide, narrow) = (&bytes[..24], &bytes[0x20..0x3f]);
    assert_eq!((&wide[..5], sum(wide), &wide[6..10]), (&b"_SM3_"[..], 0, &[24, 3, 0, 0][..]));
    assert_eq!((number(wide, 12, 4), number(wide, 16, 8)), (length, 0xf_0040));
    assert_eq!((&narrow[..4], sum(narrow), narrow[5]), (&b"_SM_"[..], 0, 31));
    assert_eq!((&narrow[16..21], sum(&narrow[16..])), (&b"_DMI_"[..], 0));
    assert_eq!((number(narrow, 22, 2), number(narrow, 24, 4), number(narrow, 28, 2)), (length, 0xf_0040, 10));
    assert_eq!(&bytes[0x40..], tables.structures());
    assert_eq!(
        tables.placed(&(0xf_0000..0xf_0050)).unwrap_err().to_string(),
        format!("the SMBIOS tables need {} bytes, their room has 80", length + 0x40)
    );
}

#[test]
fn strings_that_cannot_be_are_refused() {
    let refuse = |serial: &str| {
        let mut parameters = parameters();
        parameters.identity.serial = serial.to_owned();
        build(&parameters).unwrap_err().to_string()
    };
    assert_eq!(
        refuse("a\0b"),
        "the machine's serial number is \"a\\0b\", which no SMBIOS table can hold: it must have at most 255 \
         bytes and no zero among them"
    );
    refuse(&"x".repeat(256));
}
