//! No constructor aborts where memory is short: it returns [`Error::OutOfMemory`].
//!
//! A limit of address space counts for a whole process, so each case runs in processes of its own: this test
//! binary, which then runs only `construct_in_this_process`.

#![cfg(target_os = "linux")]

use std::process::Command;

use hyperscatter::{
    AllInFirst, Batch, Conv, Error, Incidence, Owners, Repeats, Result, SelfLoops, WindowTable, cpu,
};

const CHILD: &str = "HYPERSCATTER_TEST_CONSTRUCT";
const LIMIT: &str = "HYPERSCATTER_TEST_LIMIT";

/// Something to construct: what it is made of is made first, and not counted.
type Case = (&'static str, fn() -> Box<dyn FnOnce() -> Result<()>>);

/// Large enough for each table to be mapped by itself, so that memory taken is seen, and small enough for a
/// quick test.
const LARGE: usize = 1 << 20;

/// A case from its input and a constructor.
fn case<I: 'static, T>(
    input: I,
    construct: impl FnOnce(&mut I) -> Result<T> + 'static,
) -> Box<dyn FnOnce() -> Result<()>> {
    let mut input = input;
    Box::new(move || construct(&mut input).map(drop))
}

/// `LARGE` pairs over half as many vertices.
fn coo() -> (Vec<u32>, Vec<u32>) {
    let ids = 0..2 * LARGE as u32;
    (ids.clone().map(|i| i.wrapping_mul(7919) % (LARGE as u32 / 2)).collect(), ids.map(|i| i / 2).collect())
}

fn pairs() -> Incidence {
    let (vertices, hyperedges) = coo();
    Incidence::from_coo(LARGE / 2, LARGE, &vertices, &hyperedges, Repeats::Keep).unwrap()
}

/// Small hypergraphs, no two of which are equal.
fn distinct(n: usize) -> Vec<Incidence> {
    let edges = |i: usize| (0..20).map(|bit| [0u8, 1 + (i >> bit & 1) as u8]).collect::<Vec<_>>();
    (0..n).map(|i| Incidence::from_edges(3, &edges(i), Repeats::Keep).unwrap()).collect()
}

const CASES: [Case; 12] = [
    ("from_edges", || {
        case(vec![[0u32, 1, 2]; LARGE], |edges| Incidence::from_edges(LARGE, edges, Repeats::Merge))
    }),
    ("from_csr", || {
        let pointers: Vec<usize> = (0..=LARGE).collect();
        case((pointers, vec![0u8; LARGE]), |(p, v)| Incidence::from_csr(LARGE, p, v, Repeats::Reject))
    }),
    ("from_coo", || case(coo(), |(v, e)| Incidence::from_coo(LARGE / 2, LARGE, v, e, Repeats::Keep))),
    ("from_coo of many vertices", || {
        case((), |()| Incidence::from_coo(4 * LARGE, 4 * LARGE, &[0u8], &[0u8], Repeats::Reject))
    }),
    ("subsets", || case((), |()| Incidence::subsets(2048, 2))),
    ("with_self_loops", || {
        let alone = Incidence::from_edges(4 * LARGE, &[[0u8; 0]; 0], Repeats::Keep).unwrap();
        case(alone, |alone| alone.clone().with_self_loops(SelfLoops::Isolated))
    }),
    ("from_table", || {
        let topologies = vec![Incidence::subsets(3, 2).unwrap(), Incidence::subsets(4, 2).unwrap()];
        let ids: Vec<u8> = (0..LARGE).map(|g| (g * 7 % 5 / 3) as u8).collect();
        case(Some((topologies, ids)), |input| {
            let (topologies, ids) = input.take().unwrap();
            Batch::from_table(topologies, &ids)
        })
    }),
    ("concat", || case(Some(distinct(LARGE / 16)), |topologies| Batch::concat(topologies.take().unwrap()))),
    ("from_batched_coo", || {
        let graphs = LARGE / 8;
        let ids = (0..20 * graphs).flat_map(|e| {
            let (g, bit) = (e / 20, e % 20);
            [(3 * g, e), (3 * g + 1 + (g >> bit & 1), e)]
        });
        let (vertices, hyperedges): (Vec<usize>, Vec<usize>) = ids.unzip();
        case((vertices, hyperedges), move |(v, e)| {
            let (n, m) = (vec![3u8; graphs], vec![20u8; graphs]);
            let (n, m) = (Owners::Counts(&n[..]), Owners::Counts(&m[..]));
            Batch::from_batched_coo(graphs, v, e, n, m, Repeats::Reject, AllInFirst::Reject)
        })
    }),
    ("WindowTable::new", || {
        let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
        let offsets: Vec<usize> = (0..LARGE).map(|g| g * 7919 % 1009).collect();
        case((batch, offsets), |(batch, offsets)| WindowTable::new(batch, offsets))
    }),
    ("cpu::Plan::new", || {
        let batch = Batch::from_table(vec![Incidence::subsets(3, 2).unwrap(); 4 * LARGE], &[0u8]).unwrap();
        case(batch, |batch| cpu::Plan::<f32>::new(batch, 4, Conv::default()))
    }),
    ("cpu::Plan::workspace", || {
        let plan = cpu::Plan::<f32>::new(&Batch::replicate(pairs()), 4, Conv::default()).unwrap();
        case(plan, |plan| plan.workspace(1))
    }),
];

const GIANT: Case = ("20,000,000 incidences", || {
    let ids = |multiplier: u32| {
        (0..20_000_000u32).map(|i| i.wrapping_mul(multiplier) % 1_000_000).collect::<Vec<_>>()
    };
    case((ids(7919), ids(104_729)), |(vertices, hyperedges)| {
        Incidence::from_coo(1_000_000, 1_000_000, vertices, hyperedges, Repeats::Keep)
    })
});

/// The child: makes a case's input, then constructs under its limit.
#[test]
fn construct_in_this_process() {
    let (Ok(name), Ok(limit)) = (std::env::var(CHILD), std::env::var(LIMIT)) else { return };
    // Its threads take address space of their own.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let (_, make) = CASES.iter().chain([&GIANT]).find(|(case, _)| *case == name).unwrap();
    let construct = make();
    let bytes = match limit.strip_prefix('+') {
        Some(more) => address_space() + more.parse::<u64>().unwrap(),
        None => limit.parse().unwrap(),
    };
    const RLIMIT_AS: i32 = 9;
    // SAFETY: the C library's function, which reads two numbers.
    assert_eq!(unsafe { setrlimit(RLIMIT_AS, &[bytes, bytes]) }, 0);
    let said = match construct() {
        Ok(()) => "Ok",
        Err(Error::OutOfMemory { .. }) => "OutOfMemory",
        Err(_) => "another error",
    };
    println!("said: {said}");
}

unsafe extern "C" {
    fn setrlimit(resource: i32, limits: *const [u64; 2]) -> i32;
}

/// The address space of this process, in bytes.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// What a child says under a limit of so many bytes, or of so many more than its input takes.
fn run(name: &str, limit: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "memory::construct_in_this_process", "--nocapture", "--test-threads=1"]);
    child.envs([(CHILD, name), (LIMIT, limit)]);
    // Large allocations are mapped one by one: otherwise glibc serves some from address space that it has
    // reserved.
    child.envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536")]);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.split_once("said: "));
    match said {
        Some((_, said)) if output.status.success() => said.to_string(),
        _ => panic!("{name} under {limit}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn no_constructor_aborts_where_memory_is_short() {
    for (name, _) in &CASES {
        let mut refusals = 0;
        // Small steps, so that each table is once the one that there is no memory for.
        let mut limit = 1u64 << 20;
        loop {
            match &run(name, &format!("+{limit}"))[..] {
                "Ok" => break,
                said => assert_eq!(said, "OutOfMemory", "{name} with {limit} bytes"),
            }
            refusals += 1;
            limit += limit / 3;
        }
        println!("{name}: {limit} bytes are enough, {refusals} smaller limits are not");
        assert!(refusals > 3, "{name}");
    }
}

/// What a data set takes: 20,000,000 incidences in 650 MB, 160 of which are the ids that they are made from.
#[test]
fn twenty_million_incidences_fit_into_650_megabytes() {
    assert_eq!(run("20,000,000 incidences", "650000000"), "Ok");
}
