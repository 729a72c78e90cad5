-- +goose Up

-- The change log: append-only, in commit order. A segment is one partition: the feed opens a new one
-- from time to time (and with every epoch), and retention drops the oldest. A segment belongs to one
-- epoch, so a row needs no epoch of its own.
create table nudge.changes (
    segment      integer     not null,
    lsn          bigint      not null,  -- commit LSN
    seq          integer     not null,  -- index within the transaction, from 1
    scope        text        not null,
    tbl          text        not null,
    op           "char"      not null,  -- u upsert, p patch, d delete, r reset
    key          text,
    row          text,
    origin       text,
    reason       text,
    committed_at bigint      not null   -- microseconds since 1970, the source's clock
) partition by list (segment);

create index changes_scope on nudge.changes (scope, lsn, seq);
create index changes_lsn on nudge.changes using brin (lsn) with (pages_per_range = 32, autosummarize = on);

create table nudge.segments (
    segment    integer primary key,
    epoch      bigint      not null,
    from_lsn   bigint      not null,   -- (from_lsn, 0): the segment holds no change at or before it
    created_at timestamptz not null default now()
);

-- One row a slot: where the feed stands. It is the fence (I2): every append moves position from
-- its old value in the same transaction, and a feed that finds another value there has been replaced.
create table nudge.feed (
    slot           text primary key,
    epoch          bigint      not null,
    position       bigint      not null,   -- (position, 0): every commit below it is in the log
    horizon        bigint      not null,   -- (horizon, 0): changes at or before it may be gone
    segment        integer     not null,   -- that appends go to; it changes under this row's lock alone
    system_id      text        not null,
    timeline       integer     not null,
    database       text        not null,
    config_hash    bigint      not null,   -- of the routing configuration in force
    config         jsonb       not null,
    relations      jsonb       not null default '{}',  -- table -> its shape as last streamed or told
    publication    jsonb,                  -- what the feed streams, by catalog identity (P13)
    doubt          text,                   -- why the next connect has to begin a new epoch; appends are refused meanwhile
    -- Snapshots are served once no transaction with a lower id is in progress (A4); null: none are.
    snapshot_fence bigint,
    leader         text,
    moved_at       timestamptz not null default now(),
    epoch_reason   text        not null,
    epoch_at       timestamptz not null default now()
);

-- Keys made by the servers for themselves, such as the one that seals cursors. One that is named after a slot says
-- that the slot is ours.
create table nudge.keys (
    name       text primary key,
    value      bytea       not null,
    created_at timestamptz not null default now()
);

-- Who is no longer let in, before their tokens end by themselves: a user, a device of a user, or one token
-- by its jti; what does not apply is ''. Nodes ask for the numbers above the last one they read, so numbers
-- have to appear in order: whoever writes takes a lock on the table first.
create table nudge.revocations (
    seq     bigint      generated always as identity primary key,
    user_id text        not null,
    device  text        not null,
    jti     text        not null,
    at      timestamptz not null,   -- tokens of a user or device that were issued later are good
    until   timestamptz,            -- it holds until then; null: for good
    unique (user_id, device, jti),
    check ((user_id = '') <> (jti = '') and (device = '' or jti = ''))
);

-- Devices that registered for pushes. A device id is one device, whoever uses it.
create table nudge.devices (
    device        text primary key,
    user_id       text        not null,
    road          text        not null,  -- apns, fcm, webpush, none
    target        bytea,                 -- sealed; null: none
    target_hash   bytea unique,          -- tells one target from another without telling it
    app           text        not null,
    environment   text        not null,
    app_version   text        not null,
    registered_at timestamptz not null,  -- renewed by all but a repetition
    status        text        not null default 'active',  -- active, disabled, quarantined
    reason        text,                  -- why it is not active
    check ((road = 'none') = (target is null) and (target is null) = (target_hash is null))
);

create index devices_user on nudge.devices (user_id);
create index devices_silenced on nudge.devices (reason) where status <> 'active';

-- Where each device stands that is active and has a road: hot, and apart from what rarely changes. Positions
-- are (epoch, lsn, seq). Every writer of several rows locks them in the order of their device ids.
create table nudge.due (
    device      text primary key references nudge.devices on delete cascade,
    user_id     text     not null,      -- the device's, as are road, app and environment
    road        text     not null,
    app         text     not null,
    environment text     not null,
    acked_epoch bigint,                 -- what it acknowledged last, as far as it was of interest
    acked_lsn   bigint,
    acked_seq   integer,
    due_epoch   bigint,                 -- the newest change that it does not have and did not write; null: not due
    due_lsn     bigint,
    due_seq     integer,
    due_since   timestamptz,
    urgency     smallint not null default 0,  -- 0 lazy, 1 soon, 2 now: the highest since it is due
    session     text,                   -- the live session it was last heard over; null: none
    next_at     timestamptz,            -- when a worker may take it; null: not due
    held_until  timestamptz,            -- a worker has it, or its provider wants to be left alone
    not_before  timestamptz,            -- its budget is spent until then; null: it is whole
    pushed_at   timestamptz,            -- when a push was last accepted
    attempts    integer  not null default 0,  -- in a row, since one was accepted
    pushes      integer  not null default 0,  -- accepted, since the device was last heard of
    nudge       text,                   -- the id of the last push: the claim, until it is settled
    check ((due_epoch is null) = (next_at is null))
) with (fillfactor = 70);

create index due_user on nudge.due (user_id);
-- With app and environment, so that whoever sends for one app passes by another one's backlog within the index.
create index due_next on nudge.due (road, next_at, app, environment) where next_at is not null;

-- How far the log has been gone through for due devices. Whoever registers a device locks the table in row
-- exclusive mode, and a marker in share row exclusive mode: so each sees what the other did before it.
create table nudge.marking (
    slot      text primary key,
    epoch     bigint      not null,
    lsn       bigint      not null,     -- every change below (lsn, 0) has been marked
    moved_at  timestamptz not null default now(),  -- retention waits for a marker that moved of late
    all_lsn   bigint,                   -- a change for everybody, of this epoch, is being marked page by page:
    all_seq   integer,
    all_after text,                     -- up to this device id so far; null: none is
    all_done  integer     not null default 0,  -- so many devices so far
    all_again boolean     not null default false,  -- once more after that, for one that came meanwhile
    check ((all_lsn is null) = (all_seq is null) and (all_lsn is null) = (all_after is null))
);

-- What became of each push: the wake ledger.
create table nudge.wakes (
    nudge       text primary key,
    device      text        not null,
    user_id     text        not null,
    road        text        not null,
    epoch       bigint      not null,   -- the head that it was about
    lsn         bigint      not null,
    seq         integer     not null,
    status      text        not null,   -- sent, accepted, later, disable, quarantine
    reason      text,
    provider_id text,                   -- the provider's id of the push
    sent_at     timestamptz not null,
    answered_at timestamptz,
    pulled_at   timestamptz,
    acked_at    timestamptz
) with (fillfactor = 70);

create index wakes_device on nudge.wakes (device, sent_at);
create index wakes_sent on nudge.wakes (sent_at);

-- What an operator has ordered at run time, for every node. No row: nothing is out of the ordinary.
create table nudge.settings (
    name       text primary key,
    value      text        not null,
    changed_at timestamptz not null default now()
);

-- Partitions need the owner of the parent. The feed's role is not that: it may call these two.
-- +goose StatementBegin
create function nudge.segment_open(n integer, epoch_ bigint, from_ bigint) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    g record;
begin
    -- Made apart and attached, so that readers of the log are never locked out.
    execute format('create table nudge.changes_%s (like nudge.changes)', n);
    execute format('alter table nudge.changes attach partition nudge.changes_%s for values in (%s)', n, n);
    -- The log's end is read from the newest segment alone, which takes a right on that table itself.
    for g in select a.grantee, a.privilege_type from pg_class c cross join aclexplode(c.relacl) a
              where c.oid = 'nudge.changes'::regclass and a.grantee not in (0, c.relowner)
    loop
        execute format('grant %s on nudge.changes_%s to %s', g.privilege_type, n, g.grantee::regrole);
    end loop;
    insert into nudge.segments (segment, epoch, from_lsn) values (n, epoch_, from_);
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function nudge.segment_drop(n integer) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format('drop table nudge.changes_%s', n);
    delete from nudge.segments where segment = n;
end $$;
-- +goose StatementEnd

-- For the app's own writes: names the device that writes, so that it is not nudged for them. It
-- belongs in the writing transaction. Anyone may call it: it silences a nudge, never a change (P23). Where
-- source.origin_secret is set, it takes the device with its signature behind a colon.
-- +goose StatementBegin
create function nudge.origin(device text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    select pg_logical_emit_message(true, 'nudge.origin', device);
$$;
-- +goose StatementEnd

revoke all on all tables in schema nudge from public;
revoke all on function nudge.segment_open(integer, bigint, bigint) from public;
revoke all on function nudge.segment_drop(integer) from public;
grant usage on schema nudge to public;
grant execute on function nudge.origin(text) to public;

-- +goose Down
drop function nudge.origin(text);
drop function nudge.segment_drop(integer);
drop function nudge.segment_open(integer, bigint, bigint);
drop table nudge.settings;
drop table nudge.wakes;
drop table nudge.marking;
drop table nudge.due;
drop table nudge.devices;
drop table nudge.revocations;
drop table nudge.keys;
drop table nudge.feed;
drop table nudge.segments;
drop table nudge.changes;
