//! The system call filter: an allow list equivalent to the common default of container engines.
//!
//! It is compiled once, when the keeper starts, and installed by every sandbox just before exec. Its shape matters:
//! at installation the kernel interprets the program once per system call number to learn which calls it allows
//! without looking at arguments. A chain of 350 comparisons makes that cost a good part of a millisecond at every cold
//! start; here the numbers are merged into ranges and searched by bisection, some ten comparisons deep.

mod table;

use libc::sock_filter;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data`; the low half of the first argument on a little-endian machine.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// `CLONE_NEW*` of every namespace; a program without privileges has no business with them.
const NAMESPACES: u32 = 0x7e02_0000;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Deny,
    Allow,
    /// As if the kernel were older: C libraries then fall back to `clone`, whose flags can be seen.
    Missing,
    /// `clone` without new namespaces.
    NoNamespaces,
    /// The personalities that only change numbers.
    Personality,
    /// Every socket family but the one that talks to the hypervisor.
    NoVsock,
}

/// The default filter as the kernel's program.
pub(crate) fn default_filter() -> Vec<sock_filter> {
    let mut program = vec![
        statement(LOAD, ARCH),
        jump(IF_EQUAL, NATIVE, 1, 0),
        statement(RETURN, EPERM),
        statement(LOAD, NUMBER),
    ];
    program.extend(bisect(&ranges()));
    program
}

/// The number line cut into ranges of one rule each: (first number, rule), ascending; the first starts at zero.
fn ranges() -> Vec<(u32, Rule)> {
    let mut rules: Vec<(u32, Rule)> = Vec::new();
    let plain = table::ALLOWED.iter().map(|number| (*number, Rule::Allow));
    let special = [
        (libc::SYS_clone3, Rule::Missing),
        (libc::SYS_clone, Rule::NoNamespaces),
        (libc::SYS_personality, Rule::Personality),
        (libc::SYS_socket, Rule::NoVsock),
    ];
    rules
        .extend(plain.chain(special).map(|(number, rule)| (u32::try_from(number).unwrap_or(u32::MAX), rule)));
    rules.sort_by_key(|(number, _)| *number);
    rules.dedup_by_key(|(number, _)| *number);
    let mut ranges = vec![(0, Rule::Deny)];
    let mut next = 0;
    for (number, rule) in rules {
        if number > next {
            push(&mut ranges, next, Rule::Deny);
        }
        push(&mut ranges, number, rule);
        next = number.saturating_add(1);
    }
    push(&mut ranges, next, Rule::Deny);
    ranges
}

fn push(ranges: &mut Vec<(u32, Rule)>, first: u32, rule: Rule) {
    match ranges.last_mut() {
        Some((start, last)) if *start == first => *last = rule,
        Some((_, last)) if *last == rule => {}
        _ => ranges.push((first, rule)),
    }
}

fn bisect(ranges: &[(u32, Rule)]) -> Vec<sock_filter> {
    match ranges {
        [] => leaf(Rule::Deny),
        [(_, rule)] => leaf(*rule),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let first = high.first().map_or(0, |(first, _)| *first);
            let (low, high) = (bisect(low), bisect(high));
            // A conditional jump reaches 255 instructions, an unconditional one any distance.
            let mut program = match u8::try_from(low.len()) {
                Ok(skip) => vec![jump(IF_AT_LEAST, first, skip, 0)],
                Err(_) => {
                    let skip = u32::try_from(low.len()).unwrap_or(u32::MAX);
                    vec![jump(IF_AT_LEAST, first, 0, 1), statement(JUMP, skip)]
                }
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

fn leaf(rule: Rule) -> Vec<sock_filter> {
    match rule {
        Rule::Deny => vec![statement(RETURN, EPERM)],
        Rule::Allow => vec![statement(RETURN, ALLOW)],
        Rule::Missing => vec![statement(RETURN, ENOSYS)],
        Rule::NoNamespaces => vec![
            statement(LOAD, ARG0),
            jump(IF_ANY_BIT, NAMESPACES, 0, 1),
            statement(RETURN, EPERM),
            statement(RETURN, ALLOW),
        ],
        Rule::Personality => vec![
            statement(LOAD, ARG0),
            jump(IF_EQUAL, 0, 5, 0),
            jump(IF_EQUAL, 0x8, 4, 0),
            jump(IF_EQUAL, 0x2_0000, 3, 0),
            jump(IF_EQUAL, 0x2_0008, 2, 0),
            jump(IF_EQUAL, 0xffff_ffff, 1, 0),
            statement(RETURN, EPERM),
            statement(RETURN, ALLOW),
        ],
        Rule::NoVsock => vec![
            statement(LOAD, ARG0),
            jump(IF_EQUAL, libc::AF_VSOCK as u32, 0, 1),
            statement(RETURN, EPERM),
            statement(RETURN, ALLOW),
        ],
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer, and in how many steps.
    fn run(program: &[sock_filter], arch: u32, number: u32, arg0: u32) -> (u32, usize) {
        let (mut at, mut value, mut steps) = (0, 0, 0);
        loop {
            let op = program[at];
            at += 1;
            steps += 1;
            let taken = match op.code {
                LOAD => {
                    value = match op.k {
                        NUMBER => number,
                        ARCH => arch,
                        ARG0 => arg0,
                        other => panic!("load from {other}"),
                    };
                    continue;
                }
                JUMP => {
                    at += op.k as usize;
                    continue;
                }
                RETURN => return (op.k, steps),
                IF_EQUAL => value == op.k,
                IF_AT_LEAST => value >= op.k,
                IF_ANY_BIT => value & op.k != 0,
                other => panic!("unknown code {other}"),
            };
            at += usize::from(if taken { op.jt } else { op.jf });
        }
    }

    fn answer(number: i64, arg0: u32) -> u32 {
        run(&default_filter(), NATIVE, u32::try_from(number).unwrap(), arg0).0
    }

    #[test]
    fn every_number_gets_the_answer_of_the_table_in_few_steps() {
        let program = default_filter();
        assert!(program.len() < 4096, "the kernel's bound");
        for number in 0..1000_u32 {
            let (answer, steps) = run(&program, NATIVE, number, 0);
            let listed = table::ALLOWED.contains(&i64::from(number));
            let special =
                [libc::SYS_clone, libc::SYS_personality, libc::SYS_socket].contains(&i64::from(number));
            let expected = if listed || special {
                ALLOW
            } else if i64::from(number) == libc::SYS_clone3 {
                ENOSYS
            } else {
                EPERM
            };
            assert_eq!(answer, expected, "call {number}");
            assert!(steps < 32, "call {number} takes {steps} steps");
        }
    }

    #[test]
    fn what_could_break_out_is_refused() {
        for number in [
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_kexec_load,
            libc::SYS_open_by_handle_at,
            libc::SYS_perf_event_open,
            libc::SYS_pivot_root,
            libc::SYS_reboot,
            libc::SYS_userfaultfd,
            libc::SYS_init_module,
        ] {
            assert_eq!(answer(number, 0), EPERM, "call {number}");
        }
        assert_eq!(answer(libc::SYS_clone, libc::CLONE_NEWUSER as u32), EPERM);
        assert_eq!(answer(libc::SYS_clone, libc::CLONE_VM as u32), ALLOW);
        assert_eq!(answer(libc::SYS_personality, 0x4_0000), EPERM);
        assert_eq!(answer(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(answer(libc::SYS_socket, libc::AF_VSOCK as u32), EPERM);
        assert_eq!(answer(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
    }

    #[test]
    fn another_abi_is_refused() {
        let program = default_filter();
        assert_eq!(run(&program, 0x4000_0003, libc::SYS_read as u32, 0).0, EPERM);
        assert_eq!(run(&program, NATIVE, 0x4000_0000 | libc::SYS_read as u32, 0).0, EPERM);
    }
}
