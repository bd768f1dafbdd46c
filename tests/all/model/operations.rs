//! The operations that are tried, and how often each is.

use proptest::prelude::*;

/// Operations of one sequence.
const OPERATIONS: std::ops::Range<usize> = 20..120;

/// One of a few; sessions are counted as they are made, users and apps are few.
pub type Pick = u8;

/// What a sign-in says of itself.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub tier: Option<Pick>,
    pub timeouts: (Option<u64>, Option<u64>),
    pub remember: bool,
    pub address: Option<Pick>,
    pub verified_secs_ago: Option<u64>,
    pub is_furnished: bool,
    /// The browser that it is by.
    pub agent: Option<Pick>,
    /// Sessions that are to make room.
    pub chosen: Vec<Pick>,
    pub data: Option<Pick>,
}

/// Who starts a session.
#[derive(Debug, Clone)]
pub enum Starter {
    Backend,
    Visitor,
    Call { caller: Pick, key: Pick, body: Pick },
}

/// Which of the tokens that a session has had: how many came after it, as far as there are so many.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Back(usize),
    Wrong,
}

#[derive(Debug, Clone)]
pub enum Op {
    Create {
        user: Pick,
        app: Pick,
        starter: Starter,
        said: Said,
    },
    Authenticate {
        session: Pick,
        in_own_app: bool,
        user: Pick,
        said: Said,
    },
    Renew {
        session: Pick,
        in_own_app: bool,
        which: Which,
        address: Option<Pick>,
    },
    EnsureClient {
        app: Pick,
        id: Pick,
        user: Pick,
        address: Option<Pick>,
    },
    FindClient {
        app: Pick,
        id: Pick,
    },
    RevokeClient {
        app: Pick,
        id: Pick,
        by: Pick,
    },
    ChangeData {
        session: Pick,
        path: Option<Pick>,
        change: Pick,
        if_versions: Option<Vec<u64>>,
    },
    FindData {
        session: Pick,
        path: Option<Pick>,
    },
    Check {
        session: Pick,
        in_own_app: bool,
        usage: Option<Option<Pick>>,
        which: Which,
        max_auth_age_secs: Option<u64>,
        wants_tag: bool,
    },
    Touch {
        session: Pick,
        address: Option<Pick>,
    },
    Find {
        session: Pick,
        owner: Option<Pick>,
    },
    Revoke {
        session: Pick,
        owner: Option<Pick>,
        why: Pick,
        by: Pick,
    },
    /// Somebody was refused to end a session, which is told about theirs.
    Refused {
        session: Pick,
    },
    RevokeUser {
        user: Pick,
        app: Pick,
        except: Option<Pick>,
        credentials_changed: bool,
    },
    RevokeApp {
        app: Pick,
    },
    Update {
        session: Pick,
        owner: Option<Pick>,
        name: Option<Option<Pick>>,
        is_trusted: Option<bool>,
        auth: Option<Option<Pick>>,
        identity: Option<(Pick, Option<Pick>)>,
    },
    UpdateUser {
        user: Pick,
        app: Pick,
        tier: Option<Option<Pick>>,
        max_sessions: Option<Option<u32>>,
        is_blocked: Option<bool>,
    },
    FindUser {
        user: Pick,
        app: Pick,
    },
    ListUser {
        user: Pick,
        app: Pick,
        status: Pick,
        limit: usize,
    },
    ListApp {
        app: Pick,
        anonymous: bool,
        status: Pick,
        limit: usize,
    },
    Flush,
    Tick,
    Expire {
        limit: usize,
    },
    Purge {
        limit: usize,
    },
    Advance {
        millis: u64,
    },
    /// To the deadline of a session, a millisecond before, or one after.
    AdvanceToDeadline {
        session: Pick,
        offset_millis: i64,
    },
    /// Writes what is pending and opens the database again.
    Restart,
}

pub fn operations() -> impl Strategy<Value = Vec<Op>> {
    let user = || 0..4_u8;
    let app = || prop_oneof![2 => Just(0_u8), 1 => Just(1_u8)];
    let session = any::<Pick>;
    let address = || proptest::option::weighted(0.4, 0..3_u8);
    let owner = || proptest::option::weighted(0.4, 0..4_u8);
    let limit = || prop_oneof![Just(1_usize), Just(2), Just(50)];
    let status = || 0..3_u8;
    let timeout = || {
        let secs = prop_oneof![1 => Just(0_u64), 5 => 1..50_u64, 4 => Just(100_000)];
        proptest::option::weighted(0.2, secs)
    };
    let path = || proptest::option::weighted(0.8, 0..4_u8);
    let client = || 0..4_u8;
    let which = || {
        prop_oneof![
            10 => Just(Which::Back(0)),
            5 => Just(Which::Back(1)),
            1 => Just(Which::Back(2)),
            1 => Just(Which::Wrong),
        ]
    };
    let in_own_app = || proptest::bool::weighted(0.95);
    let said = || {
        (
            proptest::option::weighted(0.1, 0..4_u8),
            (timeout(), timeout()),
            proptest::bool::weighted(0.1),
            address(),
            proptest::option::weighted(0.2, 0..40_u64),
            (any::<bool>(), proptest::option::weighted(0.5, 0..3_u8)),
            prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(session(), 1..3)],
            proptest::option::weighted(0.3, 0..2_u8),
        )
            .prop_map(
                |(
                    tier,
                    timeouts,
                    remember,
                    address,
                    verified_secs_ago,
                    (is_furnished, agent),
                    chosen,
                    data,
                )| Said {
                    tier,
                    timeouts,
                    remember,
                    address,
                    verified_secs_ago,
                    is_furnished,
                    agent,
                    chosen,
                    data,
                },
            )
    };
    let starter = prop_oneof![
        5 => Just(Starter::Backend),
        4 => Just(Starter::Visitor),
        5 => (0..2_u8, 0..2_u8, prop_oneof![3 => Just(0_u8), 1 => Just(1_u8)]).prop_map(|(caller, key, body)| Starter::Call { caller, key, body }),
    ];
    let create = (user(), app(), starter, said()).prop_map(|(user, app, starter, said)| Op::Create {
        user,
        app,
        starter,
        said,
    });
    let authenticate =
        (session(), in_own_app(), user(), said()).prop_map(|(session, in_own_app, user, said)| {
            Op::Authenticate {
                session,
                in_own_app,
                user,
                said,
            }
        });
    let renew =
        (session(), in_own_app(), which(), address()).prop_map(|(session, in_own_app, which, address)| {
            Op::Renew {
                session,
                in_own_app,
                which,
                address,
            }
        });
    let ensure_client = (
        app(),
        client(),
        prop_oneof![3 => Just(0_u8), 1 => user()],
        address(),
    )
        .prop_map(|(app, id, user, address)| Op::EnsureClient {
            app,
            id,
            user,
            address,
        });
    let revoke_client = (app(), client(), 0..3_u8).prop_map(|(app, id, by)| Op::RevokeClient { app, id, by });
    let change_data = (
        session(),
        path(),
        0..8_u8,
        proptest::option::weighted(0.3, proptest::collection::vec(0..6_u64, 0..4)),
    )
        .prop_map(|(session, path, change, if_versions)| Op::ChangeData {
            session,
            path,
            change,
            if_versions,
        });
    let check = (
        session(),
        in_own_app(),
        proptest::option::weighted(0.8, address()),
        which(),
        proptest::option::weighted(0.1, 0..100_u64),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(session, in_own_app, usage, which, max_auth_age_secs, wants_tag)| Op::Check {
                session,
                in_own_app,
                usage,
                which,
                max_auth_age_secs,
                wants_tag,
            },
        );
    let touch = (session(), address()).prop_map(|(session, address)| Op::Touch { session, address });
    let find = (session(), owner()).prop_map(|(session, owner)| Op::Find { session, owner });
    let revoke = (session(), owner(), 0..3_u8, 0..3_u8).prop_map(|(session, owner, why, by)| Op::Revoke {
        session,
        owner,
        why,
        by,
    });
    let revoke_user = (
        user(),
        app(),
        proptest::option::of(session()),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(user, app, except, credentials_changed)| Op::RevokeUser {
            user,
            app,
            except,
            credentials_changed,
        });
    let update = (
        session(),
        owner(),
        proptest::option::of(proptest::option::of(0..3_u8)),
        proptest::option::of(any::<bool>()),
        proptest::option::of(proptest::option::of(0..3_u8)),
        proptest::option::of((0..3_u8, proptest::option::of(0..3_u8))),
    )
        .prop_map(|(session, owner, name, is_trusted, auth, identity)| Op::Update {
            session,
            owner,
            name,
            is_trusted,
            auth,
            identity,
        });
    let update_user = (
        user(),
        app(),
        proptest::option::of(proptest::option::of(0..4_u8)),
        proptest::option::of(proptest::option::of(prop_oneof![0..5_u32, Just(10_001)])),
        proptest::option::of(proptest::bool::weighted(0.4)),
    )
        .prop_map(|(user, app, tier, max_sessions, is_blocked)| Op::UpdateUser {
            user,
            app,
            tier,
            max_sessions,
            is_blocked,
        });
    let list_user = (user(), app(), status(), limit()).prop_map(|(user, app, status, limit)| Op::ListUser {
        user,
        app,
        status,
        limit,
    });
    let list_app =
        (app(), any::<bool>(), status(), limit()).prop_map(|(app, anonymous, status, limit)| Op::ListApp {
            app,
            anonymous,
            status,
            limit,
        });
    let advance = prop_oneof![
        4 => Just(0_u64),
        8 => 1..5_000_u64,
        10 => 5_000..30_000_u64,
        3 => 30_000..120_000_u64,
        1 => 120_000..600_000_u64,
        1 => Just(60 * 60 * 1_000),
        1 => Just(24 * 60 * 60 * 1_000),
    ]
    .prop_map(|millis| Op::Advance { millis });
    let to_deadline = (session(), -1..=1_i64).prop_map(|(session, offset_millis)| Op::AdvanceToDeadline {
        session,
        offset_millis,
    });
    let op = prop_oneof![
        20 => create,
        8 => authenticate,
        16 => renew,
        3 => ensure_client,
        2 => (app(), client()).prop_map(|(app, id)| Op::FindClient { app, id }),
        2 => revoke_client,
        9 => change_data,
        3 => (session(), path()).prop_map(|(session, path)| Op::FindData { session, path }),
        30 => check,
        6 => touch,
        4 => find,
        5 => revoke,
        3 => session().prop_map(|session| Op::Refused { session }),
        2 => revoke_user,
        1 => app().prop_map(|app| Op::RevokeApp { app }),
        4 => update,
        4 => update_user,
        2 => (user(), app()).prop_map(|(user, app)| Op::FindUser { user, app }),
        4 => list_user,
        2 => list_app,
        4 => Just(Op::Flush),
        3 => Just(Op::Tick),
        2 => limit().prop_map(|limit| Op::Expire { limit }),
        2 => limit().prop_map(|limit| Op::Purge { limit }),
        10 => advance,
        3 => to_deadline,
        2 => Just(Op::Restart),
    ];
    let some = prop_oneof![
        16 => op.prop_map(|op| vec![op]),
        1 => (1..4_u8, 0..8_u8).prop_map(|(user, scene)| a_scene(user, scene)),
    ];
    proptest::collection::vec(some, OPERATIONS).prop_map(|operations| operations.concat())
}

/// Some operations in a row that chance alone would rarely bring together: endings that take a history.
fn a_scene(user: Pick, scene: Pick) -> Vec<Op> {
    let create_choosing = |user, chosen| Op::Create {
        user,
        app: 0,
        starter: Starter::Backend,
        said: Said {
            chosen,
            ..Said::default()
        },
    };
    let create = |user| create_choosing(user, Vec::new());
    let signs_in = |chosen| Op::Authenticate {
        session: 0,
        in_own_app: true,
        user,
        said: Said {
            chosen,
            ..Said::default()
        },
    };
    let renew = |which| Op::Renew {
        session: 0,
        in_own_app: true,
        which,
        address: None,
    };
    let block = |is_blocked| Op::UpdateUser {
        user,
        app: 0,
        tier: None,
        max_sessions: None,
        is_blocked: Some(is_blocked),
    };
    match scene {
        // The last of them is one too many.
        0 => vec![block(false), create(user), create(user), create(user)],
        1 => vec![
            block(false),
            create(user),
            create(user),
            create(0),
            signs_in(Vec::new()),
        ],
        // Of its own user's the one that is latest but one makes room.
        2 => vec![block(false), create(user), create(0), signs_in(vec![1])],
        // The token that was renewed comes back when its successor was seen long ago.
        3 => vec![
            create(user),
            renew(Which::Back(0)),
            renew(Which::Back(0)),
            Op::Advance { millis: 25_000 },
            renew(Which::Back(1)),
        ],
        4 => vec![create(user), block(true), block(false)],
        5 => vec![block(false), create(user), create_choosing(user, vec![0])],
        6 => vec![
            create(user),
            Op::Revoke {
                session: 0,
                owner: None,
                why: 0,
                by: 0,
            },
        ],
        _ => {
            let (app, id) = (0, 2);
            let ensure = Op::EnsureClient {
                app,
                id,
                user: 0,
                address: None,
            };
            vec![ensure, Op::RevokeClient { app, id, by: 0 }]
        }
    }
}
