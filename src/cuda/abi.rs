//! What the host and the kernels must agree on is defined once, in Rust, and describes itself:
//! `kernels/abi.cuh` is written from that. The test at the end compares the two, so a field, a number or a
//! constant that changes on one side alone fails it. To write the header anew:
//!
//! ```text
//! HYPERSCATTER_WRITE_ABI=1 cargo test --lib abi
//! ```

/// Defines structures that kernels take or write. Comments go into the header, and so does the type of each
/// field: by default the one that the Rust type stands for; for addresses, the type behind `=>`.
macro_rules! structures {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident {
            $($(#[doc = $field_doc:literal])* $field:ident: $type:ty $(=> $c_type:literal)?,)*
        }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
            pub(super) struct $name {
                $($(#[doc = $field_doc])* pub(super) $field: $type,)*
            }

            #[cfg(test)]
            impl super::abi::InC for $name {
                const NAME: &str = stringify!($name);
            }
        )*

        /// The structures as they are here, in order.
        #[cfg(test)]
        pub(super) fn structures() -> Vec<super::abi::Structure> {
            vec![$(super::abi::Structure {
                name: stringify!($name),
                comment: &[$($doc),*],
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: vec![$(super::abi::Field {
                    name: stringify!($field),
                    comment: &[$($field_doc),*],
                    c_type: [$($c_type,)? <$type as super::abi::InC>::NAME][0],
                    offset: std::mem::offset_of!($name, $field),
                }),*],
            }),*]
        }
    };
}
pub(super) use structures;

/// Defines what kernels and the host call by number: the variants count from 0. Comments go into the header.
macro_rules! numbers {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident,)* }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[repr(u32)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            #[allow(dead_code, reason = "some are only ever written by kernels")]
            #[allow(clippy::enum_variant_names, reason = "the header has no other names for them")]
            pub(super) enum $name {
                $($(#[doc = $variant_doc])* $variant,)*
            }

            #[allow(dead_code, reason = "not all are looked up")]
            impl $name {
                pub(super) const ALL: &[Self] = &[$(Self::$variant),*];
                pub(super) const COUNT: usize = Self::ALL.len();

                /// What has this number.
                pub(super) fn numbered(number: u32) -> Option<Self> {
                    Self::ALL.get(number as usize).copied()
                }
            }
        )*

        /// The numbers as they are here, in order.
        #[cfg(test)]
        pub(super) fn numbers() -> Vec<super::abi::Numbers> {
            vec![$(super::abi::Numbers {
                name: stringify!($name),
                comment: &[$($doc),*],
                variants: vec![$((stringify!($variant), $name::$variant as u32, &[$($variant_doc),*])),*],
            }),*]
        }
    };
}
pub(super) use numbers;

#[cfg(test)]
pub(super) use header::{Field, InC, Numbers, Structure};

/// The header, as it has to be.
#[cfg(test)]
mod header {
    use std::fmt::Write as _;

    use crate::conv::NO_SHIFT;
    use crate::cuda::args;
    use crate::cuda::conv::{ITEM_BYTES, LAYER_ITEM_BYTES, LAYER_THREADS};
    use crate::cuda::dense_tables::STAGED_TOGETHER;
    use crate::cuda::geometry::{
        MOST_NODES, ROWS_OF_SHORT_TILE, SEGMENT, SHORT_ROW, THREADS, VECTOR_BYTES, WARP,
    };
    use crate::cuda::route::DenseClass;
    use crate::dense::PART;
    use crate::summation::SEGMENT_ROWS;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/abi.cuh");

    const HEAD: &str = "\
// Generated from src/cuda/args.rs by `HYPERSCATTER_WRITE_ABI=1 cargo test --lib abi`. Do not edit.
//
// What the host and the kernels must agree on: numbers that decide how rows are cut and added, what things
// are called by number, and the structures that kernels take and write. `cargo test` compares this file with
// the Rust definitions.

#pragma once

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8, \"sizes\");

// NVRTC has no offsetof, but computes this; other compilers do not take it for a constant.
#if defined(__CUDACC_RTC__)
#define OFFSET_OF(structure, field) reinterpret_cast<u64>(&static_cast<structure*>(nullptr)->field)
#else
#define OFFSET_OF(structure, field) __builtin_offsetof(structure, field)
#endif
";

    /// The name of a type in the header.
    pub(in crate::cuda) trait InC {
        const NAME: &str;
    }

    impl InC for u32 {
        const NAME: &str = "u32";
    }

    impl InC for u64 {
        const NAME: &str = "u64";
    }

    impl InC for i32 {
        const NAME: &str = "int";
    }

    pub(in crate::cuda) struct Structure {
        pub(in crate::cuda) name: &'static str,
        pub(in crate::cuda) comment: &'static [&'static str],
        pub(in crate::cuda) size: usize,
        pub(in crate::cuda) align: usize,
        pub(in crate::cuda) fields: Vec<Field>,
    }

    pub(in crate::cuda) struct Field {
        pub(in crate::cuda) name: &'static str,
        pub(in crate::cuda) comment: &'static [&'static str],
        pub(in crate::cuda) c_type: &'static str,
        pub(in crate::cuda) offset: usize,
    }

    pub(in crate::cuda) struct Numbers {
        pub(in crate::cuda) name: &'static str,
        pub(in crate::cuda) comment: &'static [&'static str],
        pub(in crate::cuda) variants: Vec<(&'static str, u32, &'static [&'static str])>,
    }

    /// `AddPartials` as `ADD_PARTIALS`.
    fn upper(name: &str) -> String {
        let mut upper = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !upper.is_empty() {
                upper.push('_');
            }
            upper.extend(letter.to_uppercase());
        }
        upper
    }

    fn comment(text: &mut String, indent: &str, lines: &[&str]) {
        for line in lines {
            text.push_str(format!("{indent}//{line}").trim_end());
            text.push('\n');
        }
    }

    fn enumeration(text: &mut String, head: &str, values: impl IntoIterator<Item = (String, String)>) {
        writeln!(text, "{head} {{").unwrap();
        for (name, value) in values {
            writeln!(text, "    {name} = {value},").unwrap();
        }
        text.push_str("};\n");
    }

    fn constants() -> String {
        let mut text = String::from("\n// As in src/cuda/geometry.rs and src/summation.rs.\n");
        macro_rules! values {
            ($($name:ident),*) => { [$((stringify!($name).to_string(), $name.to_string())),*] };
        }
        let values = values!(
            WARP,
            THREADS,
            VECTOR_BYTES,
            SEGMENT,
            SHORT_ROW,
            ROWS_OF_SHORT_TILE,
            SEGMENT_ROWS,
            MOST_NODES
        );
        enumeration(&mut text, "enum : u32", values);
        text.push_str("\n// Of a vertex whose degree is 0 or not finite, as in src/conv.rs.\n");
        enumeration(&mut text, "enum : int", [("NO_SHIFT".into(), NO_SHIFT.to_string())]);
        text.push_str("\n// The least number of vertices that a dense kernel is compiled for, as in src/cuda/route.rs.\n");
        enumeration(
            &mut text,
            "enum : u32",
            [("SMALLEST_DENSE_CLASS".into(), DenseClass::ALL[0].vertices().to_string())],
        );
        text.push_str("\n// Of the dense kernels, as in src/dense.rs and src/cuda/conv/dense/.\n");
        let numbers =
            [("DENSE_PART", PART), ("DENSE_ITEM_BYTES", ITEM_BYTES), ("STAGED_TOGETHER", STAGED_TOGETHER)];
        let numbers = numbers.map(|(name, number)| (name.into(), number.to_string()));
        enumeration(&mut text, "enum : u32", numbers);
        text.push_str("\n// The bytes of shared memory of each class, for numbers of 4 and of 8 bytes.\n");
        let on_path = DenseClass::ALL.iter().filter(|class| class.is_on_path());
        let bytes = on_path.flat_map(|class| [4, 8].map(|size| (class, size)));
        let bytes = bytes.flat_map(|(class, size)| {
            let each = [
                ("CONV", class.conv_bytes(size)),
                ("BACKWARD", class.backward_bytes(size)),
                ("EXCHANGE", class.exchange_bytes(size)),
            ];
            each.map(|(what, bytes)| {
                (format!("DENSE{}_{what}_BYTES_OF_{size}", class.vertices()), bytes.to_string())
            })
        });
        enumeration(&mut text, "enum : u32", bytes);
        text.push_str("\n// Those of stages, which have 16 bytes of a row, or 8 of one of 16 bits.\n");
        let stages = [(32, 16), (16, 8)].map(|(bits, of_thread)| {
            (
                format!("DENSE16_STAGES_BYTES_OF_{bits}_BITS"),
                DenseClass::Of16.stages_bytes(of_thread).to_string(),
            )
        });
        enumeration(&mut text, "enum : u32", stages);
        text.push_str("\n// Of layers, as in src/cuda/conv/dense/layer.rs.\n");
        let numbers = [
            ("LAYER_THREADS", LAYER_THREADS as usize),
            ("LAYER_WARPS", (LAYER_THREADS / WARP) as usize),
            ("LAYER_ITEM_BYTES", LAYER_ITEM_BYTES),
        ];
        let numbers = numbers.map(|(name, number)| (name.into(), number.to_string()));
        enumeration(&mut text, "enum : u32", numbers);
        text
    }

    impl Numbers {
        fn text(&self) -> String {
            let mut text = String::from("\n");
            comment(&mut text, "", self.comment);
            writeln!(text, "enum {} : u32 {{", self.name).unwrap();
            for &(variant, number, lines) in &self.variants {
                comment(&mut text, "    ", lines);
                writeln!(text, "    {} = {number},", upper(variant)).unwrap();
            }
            text + "};\n"
        }
    }

    impl Structure {
        fn text(&self) -> String {
            let mut text = String::from("\n");
            comment(&mut text, "", self.comment);
            writeln!(text, "struct {} {{", self.name).unwrap();
            for field in &self.fields {
                comment(&mut text, "    ", field.comment);
                writeln!(text, "    {} {};", field.c_type, field.name).unwrap();
            }
            text.push_str("};\n");
            let Self { name, size, align, .. } = self;
            let sizes = format!("sizeof({name}) == {size} && alignof({name}) == {align}");
            writeln!(text, "static_assert({sizes}, \"size\");").unwrap();
            for Field { name: field, offset, .. } in &self.fields {
                writeln!(text, "static_assert(OFFSET_OF({name}, {field}) == {offset}, \"offset\");").unwrap();
            }
            // Of a structure that is stored as words, the place of each word: a violation names it.
            if let Some(words_of) = name.strip_suffix("Words") {
                let place = |field: &Field| {
                    (format!("{}_{}", upper(words_of), upper(field.name)), (field.offset / 8).to_string())
                };
                let count = (upper(name), (size / 8).to_string());
                enumeration(&mut text, "enum : u32", self.fields.iter().map(place).chain([count]));
            }
            text
        }
    }

    fn header() -> String {
        let mut text = HEAD.to_string() + &constants();
        text.extend(args::numbers().iter().map(Numbers::text));
        text.extend(args::structures().iter().map(Structure::text));
        text
    }

    #[test]
    fn the_kernels_have_the_same_structures_and_numbers() {
        let expected = header();
        if std::env::var_os("HYPERSCATTER_WRITE_ABI").is_some() {
            std::fs::write(FILE, &expected).unwrap();
        }
        let found = std::fs::read_to_string(FILE).unwrap();
        if let Some((number, (expected, found))) =
            expected.lines().zip(found.lines()).enumerate().find(|(_, (expected, found))| expected != found)
        {
            panic!(
                "kernels/abi.cuh:{}: expected\n{expected}\nfound\n{found}\n\
                 Where the Rust side is right: HYPERSCATTER_WRITE_ABI=1 cargo test --lib abi, and then \
                 python3 kernels/generate.py",
                number + 1
            );
        }
        assert_eq!(found.lines().count(), expected.lines().count(), "lines of kernels/abi.cuh");
    }
}
