//! Who may do what on the control socket, by the credentials that the kernel gives of the process at the other end
//! (unix(7), SO_PEERCRED). Never believes what a client says of itself.

use std::fmt;

/// What a client may do. Writing includes reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Ask.
    Read,
    /// Ask and order.
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
        })
    }
}

/// A process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its effective user when it connected.
    pub uid: u32,
    /// Its effective group then.
    pub gid: u32,
    /// Its process id; 0 where it is not to be seen from here.
    pub pid: i32,
}

/// Somebody who was given access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// A user.
    User(u32),
    /// Everybody whose process is of this group, and these members.
    Group {
        /// The group.
        gid: u32,
        /// Users that it names.
        members: Vec<u32>,
    },
}

impl Grantee {
    fn is(&self, client: Client) -> bool {
        match self {
            Grantee::User(uid) => *uid == client.uid,
            Grantee::Group { gid, members } => *gid == client.gid || members.contains(&client.uid),
        }
    }
}

/// Everybody who was given access. Root and the agent's own user always may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The agent's own user.
    pub own: u32,
    /// May ask.
    pub read: Vec<Grantee>,
    /// May ask and order.
    pub write: Vec<Grantee>,
}

impl Grants {
    /// What a client may do; none where it may do nothing.
    pub fn of(&self, client: Client) -> Option<Access> {
        let named = |list: &[Grantee]| list.iter().any(|grantee| grantee.is(client));
        if client.uid == 0 || client.uid == self.own || named(&self.write) {
            return Some(Access::Write);
        }
        named(&self.read).then_some(Access::Read)
    }

    /// Why a client may not do what needs `wanted`; none where it may.
    pub fn refusal(&self, client: Client, wanted: Access) -> Option<String> {
        let has = self.of(client);
        if has >= Some(wanted) {
            return None;
        }
        let may = has.map_or_else(|| "nothing here".to_owned(), |access| format!("{access} only"));
        let Client { uid, pid, .. } = client;
        Some(format!(
            "uid {uid} (process {pid}) may {may}, and this needs {wanted}: name the user, or a group of it as @GROUP, in \
             control.{wanted} of the agent's configuration"
        ))
    }

    /// True where somebody else than root and the agent's user may come.
    pub fn others(&self) -> bool {
        !self.read.is_empty() || !self.write.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_user_write_and_others_only_what_they_were_given() {
        let grants = Grants {
            own: 990,
            read: vec![Grantee::User(1000), Grantee::Group { gid: 50, members: vec![1003] }],
            write: vec![Grantee::User(1001), Grantee::User(1000)],
        };
        let check = |uid, gid, expected| {
            assert_eq!(grants.of(Client { uid, gid, pid: 1 }), expected, "uid {uid} gid {gid}");
        };
        check(0, 0, Some(Access::Write));
        check(990, 990, Some(Access::Write));
        check(1000, 1000, Some(Access::Write));
        check(1001, 1001, Some(Access::Write));
        check(1002, 50, Some(Access::Read));
        check(1003, 1003, Some(Access::Read));
        check(1004, 1004, None);
    }

    #[test]
    fn a_refusal_names_who_what_and_the_key() {
        let grants = Grants { own: 0, read: vec![Grantee::User(7)], write: Vec::new() };
        let client = |uid| Client { uid, gid: uid, pid: 12 };
        assert_eq!(grants.refusal(client(0), Access::Write), None);
        assert_eq!(grants.refusal(client(7), Access::Read), None);
        let reader = grants.refusal(client(7), Access::Write).unwrap();
        assert!(reader.contains("read only") && reader.contains("control.write"), "{reader}");
        let stranger = grants.refusal(client(8), Access::Read).unwrap();
        assert!(stranger.contains("uid 8 (process 12)") && stranger.contains("control.read"), "{stranger}");
    }
}
