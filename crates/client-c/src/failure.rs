//! From refusals to error numbers.

use portcullis_client::Error;
use rustix::io::Errno;

/// Why a call fails.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Errno,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Errno, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An argument makes no sense.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(Errno::INVAL, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotRunning { .. } => Errno::CONNREFUSED,
            Error::Forbidden { .. } => Errno::ACCESS,
            Error::Refused { name, .. } => refusal(name),
            Error::Protocol(_) => Errno::PROTO,
            Error::Closed => Errno::CONNRESET,
            Error::Io(error) => system(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(system(&error), error.to_string())
    }
}

impl From<Errno> for Failure {
    fn from(code: Errno) -> Self {
        Self::new(code, code.to_string())
    }
}

fn system(error: &std::io::Error) -> Errno {
    match error.kind() {
        // The service ended: what that looks like depends on who noticed first.
        std::io::ErrorKind::BrokenPipe => Errno::CONNRESET,
        _ => Errno::from_io_error(error).unwrap_or(Errno::IO),
    }
}

/// The number for a refusal of that name in `org.portcullis.Manager`.
fn refusal(name: &str) -> Errno {
    match name {
        "NoSuchDevice" | "NoSuchClient" | "NoSuchSpace" | "NoSuchMemory" | "NoSuchGrant" | "NotAttached"
        | "NotMapped" => Errno::NOENT,
        "Lost" => Errno::STALE,
        "NotPermitted" => Errno::ACCESS,
        "NotClaimed" | "Unsafe" => Errno::PERM,
        "Held" | "Attached" | "InUse" => Errno::BUSY,
        "BadRange" | "WouldSplit" | "InvalidParameter" => Errno::INVAL,
        "OutOfRange" => Errno::RANGE,
        "Reserved" => Errno::ADDRNOTAVAIL,
        "Overlap" => Errno::EXIST,
        "Limit" => Errno::NOSPC,
        "Unsupported" => Errno::OPNOTSUPP,
        "BadMemory" => Errno::BADF,
        "BadCall" => Errno::BADMSG,
        "SafeState" => Errno::NOTRECOVERABLE,
        "System" => Errno::IO,
        _ => Errno::PROTO,
    }
}

#[cfg(test)]
mod tests {
    use portcullis_client::api::DESCRIPTION;
    use rustix::io::Errno;

    use super::refusal;

    #[test]
    fn every_error_of_the_interface_has_a_number() {
        let names: Vec<&str> = DESCRIPTION
            .lines()
            .filter_map(|line| line.strip_prefix("error ")?.split([' ', '(']).next())
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert_ne!(refusal(name), Errno::PROTO, "{name}");
        }
    }
}
