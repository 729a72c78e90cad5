-- The demo app: who takes which medication, and when. Every row is owned by a user. This is the app's
-- own schema; nudge adds nothing to it but a replica identity.

create table public.users (
    id         bigint primary key,
    name       text        not null,
    created_at timestamptz not null default now()
);

create table public.medications (
    id         uuid primary key default gen_random_uuid(),
    user_id    bigint      not null references public.users on delete cascade,
    name       text        not null,
    dose       text        not null,
    color      text        not null,
    supplied   int         not null,
    stock      int         not null,
    updated_at timestamptz not null default clock_timestamp()
);

create index medications_user on public.medications (user_id);

create table public.intakes (
    id            uuid primary key default gen_random_uuid(),
    user_id       bigint      not null references public.users on delete cascade,
    medication_id uuid        not null references public.medications on delete cascade,
    due_at        timestamptz not null,
    taken_at      timestamptz,
    note          text,
    updated_at    timestamptz not null default clock_timestamp()
);

create index intakes_user on public.intakes (user_id);
create index intakes_medication on public.intakes (medication_id);

create function public.touch_updated_at() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.updated_at = clock_timestamp();
    return new;
end $$;

create trigger medications_touch before update on public.medications
    for each row execute function public.touch_updated_at();
create trigger intakes_touch before update on public.intakes
    for each row execute function public.touch_updated_at();

-- Whoever writes, medications.stock stays supplied minus the intakes taken. It moves by differences,
-- not by a count: two transactions at once would each count without the other.
create function public.keep_stock() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    given_back uuid;
    used_up    uuid;
begin
    if tg_op <> 'INSERT' and old.taken_at is not null then
        given_back = old.medication_id;
    end if;
    if tg_op <> 'DELETE' and new.taken_at is not null then
        used_up = new.medication_id;
    end if;
    if given_back is distinct from used_up then
        update public.medications
           set stock = stock + (case when id = given_back then 1 else 0 end)
                             - (case when id = used_up then 1 else 0 end)
         where id in (given_back, used_up);
    end if;
    return null;
end $$;

create trigger intakes_stock after insert or delete or update of taken_at, medication_id on public.intakes
    for each row execute function public.keep_stock();

insert into public.users (id, name) values
    (1, 'Ada Lindqvist'),
    (2, 'Ben Okafor'),
    (3, 'Chiara Rossi'),
    (4, 'Daniel Kim'),
    (5, 'Elif Yılmaz'),
    (6, 'Farah Haddad'),
    (7, 'Grete Holm');

insert into public.medications (user_id, name, dose, color, supplied, stock) values
    (1, 'Ramipril',      '5 mg',      'clay',  90, 90),
    (1, 'Metformin',     '500 mg',    'sky',  120, 120),
    (1, 'Vitamin B12',   '1 tablet',  'rose',  60, 60),
    (2, 'Levothyroxine', '75 µg',     'sage',  90, 90),
    (2, 'Iron',          '1 capsule', 'clay',  60, 60),
    (2, 'Magnesium',     '300 mg',    'iris',  60, 60),
    (3, 'Atorvastatin',  '20 mg',     'iris',  90, 90),
    (3, 'Bisoprolol',    '2.5 mg',    'rose',  90, 90),
    (3, 'Omega-3',       '1 capsule', 'amber', 60, 60),
    (4, 'Cetirizine',    '10 mg',     'sky',   30, 30),
    (4, 'Vitamin D',     '1000 IU',   'amber', 90, 90),
    (4, 'Pantoprazole',  '20 mg',     'sage',  60, 60),
    (5, 'Metformin',     '850 mg',    'sky',  120, 120),
    (5, 'Ramipril',      '2.5 mg',    'clay',  90, 90),
    (5, 'Zinc',          '15 mg',     'iris',  60, 60),
    (6, 'Levothyroxine', '100 µg',    'sage',  90, 90),
    (6, 'Folic acid',    '400 µg',    'rose',  60, 60),
    (6, 'Vitamin D',     '2000 IU',   'amber', 90, 90),
    (7, 'Levothyroxine', '50 µg',     'sage',  90, 90),
    (7, 'Metformin',     '500 mg',    'sky',   60, 60),
    (7, 'Vitamin D',     '1000 IU',   'amber', 90, 90),
    (7, 'Magnesium',     '300 mg',    'iris',  30, 30);
