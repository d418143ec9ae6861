//! Jobs and results on the socket: a header of fixed length, then as many bytes as it says.

use std::io::{self, Read};

use crate::Standing;

/// Most bytes of a job or of a result: the longest prompt in the longest spelling of JSON.
pub const FRAME_BYTES_MAX: usize = 512 << 20;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

/// What precedes the bytes of a job. A result's has no limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub bytes: u32,
    pub cpu_seconds: u32,
    pub memory_mib: u32,
    /// Where its work stands.
    pub standing: Standing,
}

impl Header {
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let fields = [self.bytes, self.cpu_seconds, self.memory_mib, self.standing as u32];
        out.chunks_exact_mut(4)
            .zip(fields)
            .for_each(|(out, field)| out.copy_from_slice(&field.to_le_bytes()));
        out
    }

    /// Fails if it announces more than [`FRAME_BYTES_MAX`].
    pub fn decode(header: [u8; HEADER_BYTES]) -> io::Result<Self> {
        let field = |i: usize| {
            u32::from_le_bytes([header[i * 4], header[i * 4 + 1], header[i * 4 + 2], header[i * 4 + 3]])
        };
        let header = Self {
            bytes: field(0),
            cpu_seconds: field(1),
            memory_mib: field(2),
            standing: standing(field(3))?,
        };
        if header.bytes as usize > FRAME_BYTES_MAX {
            let message = format!("{} bytes; expected at most {FRAME_BYTES_MAX}", header.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(header)
    }
}

fn standing(field: u32) -> io::Result<Standing> {
    let all = [Standing::Normal, Standing::After, Standing::Last];
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("{field} is no standing of work"));
    all.into_iter().find(|&standing| standing as u32 == field).ok_or_else(unknown)
}

/// The next frame; `None` if the stream has ended before one.
pub fn read(stream: &mut impl Read) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let header = Header::decode(header)?;
    let mut bytes = vec![0; header.bytes as usize];
    stream.read_exact(&mut bytes)?;
    Ok(Some((header, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_lengths_have_a_limit() {
        let header = Header { bytes: 70_000, cpu_seconds: 2, memory_mib: 512, standing: Standing::Last };
        assert_eq!(Header::decode(header.encode()).unwrap(), header);
        let long = Header { bytes: FRAME_BYTES_MAX as u32 + 1, ..header };
        assert!(Header::decode(long.encode()).is_err());
        let bytes = [header.encode().as_slice(), &[7; 70_000]].concat();
        assert_eq!(read(&mut bytes.as_slice()).unwrap(), Some((header, vec![7; 70_000])));
        assert_eq!(read(&mut [].as_slice()).unwrap(), None);
        assert!(read(&mut &bytes[..80]).is_err());
    }
}
