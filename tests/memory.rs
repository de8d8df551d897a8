//! No constructor aborts where memory is short: it returns [`Error::OutOfMemory`].
//!
//! What aborts, and a limit of address space, count for a whole process, so each case runs in processes of
//! its own: this test binary, which then runs only `construct_in_this_process`.

#![cfg(target_os = "linux")]

use std::process::Command;

use hyperscatter::{
    AllInFirst, Batch, Error, Incidence, Owners, Repeats, Result, SelfLoops, WindowTable, cpu,
};

use crate::allocator::refusing;

const CHILD: &str = "HYPERSCATTER_TEST_CONSTRUCT";
const REFUSED: &str = "HYPERSCATTER_TEST_REFUSED";
const LIMIT: &str = "HYPERSCATTER_TEST_LIMIT";

/// Something to construct: what it is made of is made first, and not counted.
type Case = (&'static str, fn() -> Box<dyn FnOnce() -> Result<()>>);

/// Large enough for each table that grows with it to be a large allocation.
const LARGE: usize = 1 << 14;

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

fn n_graphs() -> usize {
    LARGE / 8
}

/// The rows of the index of graphs no two of which are equal, and their numbers of vertices and hyperedges.
fn batched() -> (Vec<usize>, Vec<usize>, Vec<u16>, Vec<u16>) {
    let ids = (0..20 * n_graphs()).flat_map(|e| {
        let (g, bit) = (e / 20, e % 20);
        [(3 * g, e), (3 * g + 1 + (g >> bit & 1), e)]
    });
    let (vertices, hyperedges) = ids.unzip();
    (vertices, hyperedges, vec![3; n_graphs()], vec![20; n_graphs()])
}

/// What is wrong is an error that is looked into, for which memory may be short, too.
const WRONG: [Case; 2] = [
    ("from_batched_coo with an incidence of two graphs", || {
        case(batched(), |(v, e, n, m)| {
            e.swap(0, 1000);
            let (n, m) = (Owners::Counts(&n[..]), Owners::Counts(&m[..]));
            Batch::from_batched_coo(n_graphs(), v, e, n, m, Repeats::Reject, AllInFirst::Reject)
        })
    }),
    ("from_batched_coo with starts as owners", || {
        let starts: Vec<usize> = (0..=n_graphs()).map(|g| 20 * g).collect();
        case((batched(), starts), |((v, e, n, _), starts)| {
            let (n, m) = (Owners::Counts(&n[..]), Owners::GraphIds(&starts[..]));
            Batch::from_batched_coo(n_graphs(), v, e, n, m, Repeats::Reject, AllInFirst::Reject)
        })
    }),
];

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
        case(batched(), |(v, e, n, m)| {
            let (n, m) = (Owners::Counts(&n[..]), Owners::Counts(&m[..]));
            Batch::from_batched_coo(n_graphs(), v, e, n, m, Repeats::Reject, AllInFirst::Reject)
        })
    }),
    ("WindowTable::new", || {
        let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
        let offsets: Vec<usize> = (0..LARGE).map(|g| g * 7919 % 1009).collect();
        case((batch, offsets), |(batch, offsets)| WindowTable::new(batch, offsets))
    }),
    ("cpu::PlanBuilder::build", || {
        let batch = Batch::from_table(vec![Incidence::subsets(3, 2).unwrap(); 4 * LARGE], &[0u8]).unwrap();
        case(batch, |batch| cpu::Plan::<f32>::builder(batch, 4).build())
    }),
    ("cpu::Plan::workspace", || {
        let plan = cpu::Plan::<f32>::builder(&Batch::replicate(pairs()), 4).build().unwrap();
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
    let Ok(name) = std::env::var(CHILD) else { return };
    // Its threads take memory of their own.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let mut cases = CASES.iter().chain(&WRONG).chain([&GIANT]);
    let (_, make) = cases.find(|(case, _)| *case == name).unwrap();
    let construct = make();
    if let Ok(bytes) = std::env::var(LIMIT) {
        let bytes: u64 = bytes.parse().unwrap();
        const RLIMIT_AS: i32 = 9;
        // SAFETY: the C library's function, which reads two numbers.
        assert_eq!(unsafe { setrlimit(RLIMIT_AS, &[bytes, bytes]) }, 0);
    }
    let refused = std::env::var(REFUSED).map_or(usize::MAX, |n| n.parse().unwrap());
    let (made, has_refused) = refusing(refused, construct);
    let said = match made {
        Ok(()) => "Ok",
        Err(Error::OutOfMemory { .. }) => "OutOfMemory",
        Err(_) => "another error",
    };
    println!("said: {said}, {}", if has_refused { "refused" } else { "not refused" });
}

unsafe extern "C" {
    fn setrlimit(resource: i32, limits: *const [u64; 2]) -> i32;
}

/// What a child says with this variable set.
fn run(name: &str, (variable, value): (&str, &str)) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "memory::construct_in_this_process", "--nocapture", "--test-threads=1"]);
    // Otherwise threads reserve address space that they do not take.
    child.envs([(CHILD, name), (variable, value), ("MALLOC_ARENA_MAX", "1")]);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.split_once("said: "));
    match said {
        Some((_, said)) if output.status.success() => said.to_string(),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            panic!("{name} with {variable}={value}: {}\n{stderr}", output.status)
        }
    }
}

/// What a child says with each of its large allocations refused in turn, and at last with none.
fn with_each_refused(name: &str) -> Vec<String> {
    let mut said = vec![];
    for n in 0.. {
        said.push(run(name, (REFUSED, &n.to_string())));
        if said[n].ends_with(", not refused") {
            break;
        }
    }
    println!("{name}: {said:?}");
    said
}

#[test]
fn each_table_of_a_constructor_may_be_the_one_that_there_is_no_memory_for() {
    for (name, _) in &CASES {
        let mut said = with_each_refused(name);
        assert_eq!(said.pop().unwrap(), "Ok, not refused", "{name}");
        assert!(
            !said.is_empty() && said.iter().all(|said| said == "OutOfMemory, refused"),
            "{name}: {said:?}"
        );
    }
}

/// Where there is none for the search for the cause of an error, the error has no cause.
#[test]
fn a_wrong_index_is_refused_where_memory_is_short() {
    for (name, _) in &WRONG {
        let mut said = with_each_refused(name);
        assert_eq!(said.pop().unwrap(), "another error, not refused", "{name}");
        let mut rest = said.iter().skip_while(|said| *said == "OutOfMemory, refused").peekable();
        assert!(
            rest.peek().is_some() && rest.all(|said| said == "another error, refused"),
            "{name}: {said:?}"
        );
    }
}

/// What a data set takes: 20,000,000 incidences in 650 MB, 160 of which are the ids that they are made from.
#[test]
fn twenty_million_incidences_fit_into_650_megabytes() {
    assert_eq!(run("20,000,000 incidences", (LIMIT, "650000000")), "Ok, not refused");
}
