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
drop table nudge.revocations;
drop table nudge.keys;
drop table nudge.feed;
drop table nudge.segments;
drop table nudge.changes;
