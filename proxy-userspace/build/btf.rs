//! Puts the forward declarations of an object's BTF in order.
//!
//! LLVM writes them last, in the order of addresses in its memory (`BTFDebug::endModule`): of the same source one link
//! in twenty or so differs in it. Nothing else does, and nobody cares for that order, so it is made that of the names.
//!
//! The format: `Documentation/bpf/btf.rst` of the kernel. Offsets are in bytes; all numbers are of the target's byte
//! order, which is little here, as BTF of the other order is left alone.

use std::{collections::BTreeMap, ops::Range};

use object::{Object as _, ObjectSection as _};

/// `.BTF` and `.BTF.ext` begin with it.
const MAGIC: u16 = 0xeb9f;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;
/// Those whose third word is the id of a type: pointers, names for types, functions, variables and tags.
const REFERRING: [u32; 10] = [2, 8, 9, 10, 11, 12, FUNC_PROTO, VAR, DECL_TAG, 18];

/// Name, flags with kind, and size or type.
const TYPE_BYTES: usize = 12;

/// What a word of the sections is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The offset of a string.
    Name,
    /// The id of a type.
    Type,
}

/// Orders the forward declarations of an object file in place; `None`, if it is not as we know it, and is left alone.
pub(crate) fn put_in_order(object: &mut [u8]) -> Option<()> {
    let [btf, ext] = places(object)?;
    let sections =
        Sections { btf: object[btf.clone()].to_vec(), ext: object[ext.clone()].to_vec() }.in_order()?;
    object[btf].copy_from_slice(&sections.btf);
    object[ext].copy_from_slice(&sections.ext);
    Some(())
}

/// Where the two sections lie in the file.
pub(crate) fn places(object: &[u8]) -> Option<[Range<usize>; 2]> {
    let file = object::File::parse(object).ok()?;
    let place = |name| {
        let (begin, length) = file.section_by_name(name)?.file_range()?;
        let begin = usize::try_from(begin).ok()?;
        Some(begin..begin + usize::try_from(length).ok()?)
    };
    Some([place(".BTF")?, place(".BTF.ext")?])
}

/// The contents of an object's `.BTF` and `.BTF.ext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) btf: Vec<u8>,
    pub(crate) ext: Vec<u8>,
}

impl Sections {
    /// Orders forward declarations by name; `None`, if this is not BTF as we know it.
    pub(crate) fn in_order(&self) -> Option<Self> {
        self.with_forwards_by(|name| name.to_vec())
    }

    /// Orders them by what `rank` makes of their names.
    pub(crate) fn with_forwards_by<R: Ord>(&self, rank: impl Fn(&[u8]) -> R) -> Option<Self> {
        let parts = Parts::of(&self.btf)?;
        let mut words = Vec::new();
        let mut forwards = Vec::new();
        walk_types(&self.btf, &parts, &mut words, &mut forwards)?;
        let mut ext_words = Vec::new();
        walk_ext(&self.ext, &mut ext_words)?;

        let name_of = |at: usize| parts.string(&self.btf, word(&self.btf, at)?);
        let mut order = Vec::new();
        for (id, at) in &forwards {
            order.push((rank(name_of(*at)?), word(&self.btf, at + 4)?, *id, *at));
        }
        order.sort();

        let mut sections = self.clone();
        let mut ids = BTreeMap::new();
        let mut last = None;
        for ((_, flags, old, from), (id, to)) in order.iter().zip(&forwards) {
            let bytes = self.btf.get(*from..from + TYPE_BYTES)?;
            sections.btf.get_mut(*to..to + TYPE_BYTES)?.copy_from_slice(bytes);
            // Which of two that are the same is meant makes no difference, so the first is.
            let same = (name_of(*from)?, *flags);
            let id = match last {
                Some((seen, first)) if seen == same => first,
                _ => *id,
            };
            last = Some((same, id));
            ids.insert(*old, id);
        }
        let names = sections.reorder_strings(&parts, &forwards, &rank)?;
        for (bytes, words) in [(&mut sections.btf, words), (&mut sections.ext, ext_words)] {
            for (at, is) in words {
                let renamed = match is {
                    Word::Name => &names,
                    Word::Type => &ids,
                };
                if let Some(new) = renamed.get(&word(bytes, at)?) {
                    bytes.get_mut(at..at + 4)?.copy_from_slice(&new.to_le_bytes());
                }
            }
        }
        Some(sections)
    }

    /// Orders the names that came with the declarations, which are the last strings; returns where each has gone.
    fn reorder_strings<R: Ord>(
        &mut self,
        parts: &Parts,
        forwards: &[(u32, usize)],
        rank: impl Fn(&[u8]) -> R,
    ) -> Option<BTreeMap<u32, u32>> {
        let mut by_offset = BTreeMap::new();
        for (_, at) in forwards {
            let offset = word(&self.btf, *at)?;
            by_offset.insert(offset, parts.string(&self.btf, offset)?.to_vec());
        }
        let mut begin = parts.string_bytes;
        let mut strings = Vec::new();
        for (offset, name) in by_offset.into_iter().rev() {
            if offset as usize + name.len() + 1 != begin {
                break;
            }
            begin = offset as usize;
            strings.push((offset, name));
        }
        strings.sort_by_key(|(_, name)| rank(name));
        let mut moved = BTreeMap::new();
        for (old, name) in strings {
            moved.insert(old, u32::try_from(begin).ok()?);
            let at = parts.strings + begin;
            self.btf.get_mut(at..at + name.len())?.copy_from_slice(&name);
            *self.btf.get_mut(at + name.len())? = 0;
            begin += name.len() + 1;
        }
        Some(moved)
    }
}

/// Where the parts of `.BTF` begin.
struct Parts {
    types: usize,
    types_end: usize,
    strings: usize,
    string_bytes: usize,
}

impl Parts {
    fn of(btf: &[u8]) -> Option<Self> {
        let header = header(btf)?;
        let at = |index: usize| word(btf, 8 + 4 * index).map(|value| value as usize);
        let (types, strings, string_bytes) = (header + at(0)?, header + at(2)?, at(3)?);
        Some(Self { types, types_end: types + at(1)?, strings, string_bytes })
    }

    fn string<'a>(&self, btf: &'a [u8], offset: u32) -> Option<&'a [u8]> {
        let strings = btf.get(self.strings..self.strings + self.string_bytes)?;
        strings.get(offset as usize..)?.split(|byte| *byte == 0).next()
    }
}

/// The length of a section's header, which is in both after magic, version and flags.
fn header(section: &[u8]) -> Option<usize> {
    let magic = u16::from_le_bytes(section.get(..2)?.try_into().ok()?);
    (magic == MAGIC).then(|| word(section, 4))?.map(|length| length as usize)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Every word of the types that is a name or a type, and the forward declarations with their ids.
fn walk_types(
    btf: &[u8],
    parts: &Parts,
    words: &mut Vec<(usize, Word)>,
    forwards: &mut Vec<(u32, usize)>,
) -> Option<()> {
    use Word::{Name, Type};
    let (mut at, mut id) = (parts.types, 1);
    while at < parts.types_end {
        let info = word(btf, at + 4)?;
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        words.push((at, Name));
        if REFERRING.contains(&kind) {
            words.push((at + 8, Type));
        }
        if kind == FORWARD {
            forwards.push((id, at));
        }
        // How long what follows is, and which of its words are what; of each member, if there are members.
        let (times, bytes, inside): (usize, usize, &[_]) = match kind {
            INT | VAR | DECL_TAG => (1, 4, &[]),
            ARRAY => (1, 12, &[(0, Type), (4, Type)]),
            STRUCT | UNION => (count, 12, &[(0, Name), (4, Type)]),
            ENUM => (count, 8, &[(0, Name)]),
            ENUM64 => (count, 12, &[(0, Name)]),
            FUNC_PROTO => (count, 8, &[(0, Name), (4, Type)]),
            DATASEC => (count, 12, &[(0, Type)]),
            1..=18 => (0, 0, &[]),
            _ => return None,
        };
        at += TYPE_BYTES;
        for _ in 0..times {
            words.extend(inside.iter().map(|(offset, is)| (at + offset, *is)));
            at += bytes;
        }
        id += 1;
    }
    Some(())
}

/// The same of `.BTF.ext`: functions, lines, and relocations if there are any.
fn walk_ext(ext: &[u8], words: &mut Vec<(usize, Word)>) -> Option<()> {
    use Word::{Name, Type};
    let header = header(ext)?;
    let parts: [&[_]; 3] = [&[(4, Type)], &[(4, Name), (8, Name)], &[(4, Type), (8, Name)]];
    for (index, inside) in parts.into_iter().enumerate() {
        let place = 8 + 8 * index;
        if place + 8 > header {
            break;
        }
        let mut at = header + word(ext, place)? as usize;
        let end = at + word(ext, place + 4)? as usize;
        if at == end {
            continue;
        }
        let bytes = word(ext, at)? as usize;
        at += 4;
        while at < end {
            words.push((at, Name));
            let records = word(ext, at + 4)? as usize;
            at += 8;
            for _ in 0..records {
                words.extend(inside.iter().map(|(offset, is)| (at + offset, *is)));
                at += bytes;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubeshunt.bpf.o"));

    fn sections() -> Sections {
        let [btf, ext] = places(OBJECT).unwrap();
        Sections { btf: OBJECT[btf].to_vec(), ext: OBJECT[ext].to_vec() }
    }

    /// What each word leads to: a string, or a type, which is its id or the name of what is only declared.
    fn meanings(sections: &Sections) -> Vec<String> {
        let parts = Parts::of(&sections.btf).unwrap();
        let (mut words, mut forwards, mut ext_words) = (Vec::new(), Vec::new(), Vec::new());
        walk_types(&sections.btf, &parts, &mut words, &mut forwards).unwrap();
        walk_ext(&sections.ext, &mut ext_words).unwrap();
        let string =
            |offset| String::from_utf8_lossy(parts.string(&sections.btf, offset).unwrap()).into_owned();
        let declared: BTreeMap<u32, String> =
            forwards.iter().map(|(id, at)| (*id, string(word(&sections.btf, *at).unwrap()))).collect();
        let of_declarations: Vec<usize> = forwards.iter().map(|(_, at)| *at).collect();
        let of_types = words.into_iter().filter(|(at, _)| !of_declarations.contains(at));
        let mut meanings = Vec::new();
        for (bytes, words) in [(&sections.btf, of_types.collect()), (&sections.ext, ext_words)] {
            meanings.extend(words.into_iter().map(|(at, is)| match (is, word(bytes, at).unwrap()) {
                (Word::Name, offset) => string(offset),
                (Word::Type, id) => declared.get(&id).cloned().unwrap_or_else(|| id.to_string()),
            }));
        }
        meanings
    }

    #[test]
    fn the_programs_are_in_order() {
        let mut object = OBJECT.to_vec();
        put_in_order(&mut object).unwrap();
        assert_eq!(object, OBJECT);
    }

    #[test]
    fn whatever_the_order_was_it_becomes_the_same() {
        let ours = sections();
        let reversed = ours.with_forwards_by(|name| Reverse(name.to_vec())).unwrap();
        let shuffled =
            ours.with_forwards_by(|name| name.iter().map(|byte| u32::from(*byte)).sum::<u32>() % 7).unwrap();
        assert!(reversed != ours && shuffled != ours && shuffled != reversed);
        for other in [reversed, shuffled] {
            assert_eq!(meanings(&other), meanings(&ours));
            assert_eq!(other.in_order().unwrap(), ours);
        }
    }

    #[test]
    fn what_is_cut_off_is_left_alone() {
        let ours = sections();
        for length in (0..ours.btf.len()).step_by(997) {
            let cut = Sections { btf: ours.btf[..length].to_vec(), ext: ours.ext.clone() };
            assert_eq!(cut.in_order(), None, "{length} bytes");
        }
    }
}
