-- Plans the intakes of one day for the seed's users, unless they are planned. $1 is the day's midnight.
-- What was due early is taken already: a morning has passed, and the page has something to show.
with plan (name, after) as (values
    ('Levothyroxine', interval '6 h 30 min'),
    ('Pantoprazole',  interval '7 h'),
    ('Ramipril',      interval '8 h'),
    ('Bisoprolol',    interval '8 h'),
    ('Cetirizine',    interval '8 h'),
    ('Metformin',     interval '8 h'),
    ('Iron',          interval '9 h'),
    ('Vitamin B12',   interval '9 h'),
    ('Folic acid',    interval '9 h'),
    ('Vitamin D',     interval '12 h 30 min'),
    ('Omega-3',       interval '12 h 30 min'),
    ('Zinc',          interval '13 h'),
    ('Metformin',     interval '18 h 30 min'),
    ('Atorvastatin',  interval '20 h'),
    ('Magnesium',     interval '21 h 30 min')
)
insert into public.intakes (user_id, medication_id, due_at, taken_at)
select m.user_id, m.id, $1::timestamptz + p.after,
       case when p.after < interval '7 h' and $1::timestamptz + interval '7 h' < now()
            then $1::timestamptz + p.after + interval '4 min' end
  from public.medications m
  join plan p on p.name = m.name
 where m.user_id between 1 and 7
   and not exists (select from public.intakes i
                    where i.medication_id = m.id
                      and i.due_at >= $1 and i.due_at < $1::timestamptz + interval '1 day')
 order by m.user_id, p.after;
