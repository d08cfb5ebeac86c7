//! The names of what a component imports and exports: enough of the binary format to tell them, nothing more.

/// Imports and exports in their order, at most `limit` of each; `None` for what this reader does not understand.
pub(super) fn read(bytes: &[u8], limit: usize) -> Option<(Vec<String>, Vec<String>)> {
    const IMPORTS: u8 = 10;
    const EXPORTS: u8 = 11;
    let mut rest = Reader(bytes.get(8..)?);
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    while let Some(section) = rest.byte() {
        let size = rest.number()?;
        let mut content = Reader(rest.take(size)?);
        match section {
            IMPORTS => {
                for _ in 0..content.number()? {
                    let name = content.name()?;
                    content.kind()?;
                    imports.push(name);
                }
            }
            EXPORTS => {
                for _ in 0..content.number()? {
                    let name = content.name()?;
                    content.item()?;
                    exports.push(name);
                }
            }
            _ => {}
        }
        if imports.len() > limit || exports.len() > limit {
            return None;
        }
    }
    Some((imports, exports))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned LEB128 of at most 32 bits.
    fn number(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok()?.try_into().ok();
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn name(&mut self) -> Option<String> {
        match self.byte()? {
            0 | 1 => self.text(),
            // With the end of its version apart.
            2 => Some(format!("{}{}", self.text()?, self.text()?)),
            _ => None,
        }
    }

    /// What an import is.
    fn kind(&mut self) -> Option<()> {
        match self.byte()? {
            0 => drop((self.byte()?, self.number()?)),
            1 | 4 | 5 => drop(self.number()?),
            3 => match self.byte()? {
                0 => drop(self.number()?),
                1 => {}
                _ => return None,
            },
            _ => return None,
        }
        Some(())
    }

    /// What an export is, with the type that may be told of it.
    fn item(&mut self) -> Option<()> {
        if self.byte()? == 0 {
            self.byte()?;
        }
        self.number()?;
        match self.byte()? {
            0 => Some(()),
            1 => self.kind(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";

    fn component(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        for (id, content) in sections {
            bytes.extend([*id, u8::try_from(content.len()).unwrap()]);
            bytes.extend_from_slice(content);
        }
        bytes
    }

    #[test]
    fn names_of_imports_and_exports() {
        // An instance, a function, a type by equality.
        let imports = b"\x03\x00\x03a:b\x05\x00\x01\x01f\x01\x02\x00\x01t\x03\x00\x07";
        // An instance; a function with its type, its version's end apart.
        let exports = b"\x02\x00\x03x:y\x05\x00\x00\x02\x01e\x02.2\x01\x01\x01\x01\x03";
        let bytes = component(&[(7, b"?"), (10, imports), (11, exports)]);
        let (imports, exports) = read(&bytes, 10).unwrap();
        assert_eq!(imports, ["a:b", "f", "t"]);
        assert_eq!(exports, ["x:y", "e.2"]);
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_not_understood() {
        assert_eq!(read(HEAD, 10), Some((vec![], vec![])));
        for bytes in [&b"\0asm"[..], &component(&[(10, b"\x01\x00\x03a:")]), &component(&[(10, b"\x01\x07")])]
        {
            assert_eq!(read(bytes, 10), None);
        }
        let many = component(&[(10, b"\x02\x00\x01a\x05\x00\x00\x01b\x05\x00")]);
        assert_eq!(read(&many, 1), None);
    }
}
