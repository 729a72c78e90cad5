package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Revocation ends tokens before their time. It names a user, a device of a user, or one token by its jti.
//
// Of a user or device it refuses the tokens that were issued at or before At, and those that don't say
// when they were issued; whoever signs in again later is let in. Tokens say the second alone, so one that
// was issued in the second of the revocation counts as before it. A token by its jti is refused for good.
//
// A device is the one that the token names. Where tokens name none (auth.claims.device is not
// configured) it is what the client says it is: that ends a lost phone's session, but not a thief's.
type Revocation struct {
	Seq    int64 // its number, in the order in which nodes hear of it
	User   string
	Device string // with User
	JTI    string // alone
	// At is when it counts from. To be written it may be zero: now, by the database's clock. An issuer whose clock
	// runs ahead dates tokens by up to Leeway too late: who must be sure says now + Leeway, and whoever signs in
	// before that has passed is to sign in again.
	At time.Time
	// Until is when it ends: the exp of the last token that it is meant for. Zero: never, since only the
	// issuer knows how long tokens live.
	Until time.Time
}

// Validate says what is wrong with a revocation that is to be written.
func (r Revocation) Validate() error {
	switch {
	case r.User == "" && r.JTI == "" && r.Device != "":
		return errors.New("a device is one of a user: name both")
	case r.User == "" && r.JTI == "":
		return errors.New("it names neither a user nor a token's jti")
	case r.User != "" && r.JTI != "":
		return errors.New("it names a user and a jti: a jti stands for itself")
	case r.JTI != "" && r.Device != "":
		return errors.New("it names a device and a jti: a jti stands for itself")
	case r.JTI != "" && !r.At.IsZero():
		return errors.New("it dates a jti: a token by its jti is refused whenever it was issued")
	case r.At.After(time.Now().Add(maxAhead)):
		return fmt.Errorf("at lies more than %s ahead: nobody could sign in until then", maxAhead)
	case !r.Until.IsZero() && !r.Until.After(time.Now()):
		return errors.New("until has passed already")
	case r.Until.Unix() > maxDate:
		return errors.New("until lies beyond the year 9999: leave it out")
	}
	for name, s := range map[string]string{"user": r.User, "device": r.Device, "jti": r.JTI} {
		if len(s) > maxClaim {
			return fmt.Errorf("%s is longer than %d bytes, which no token's is", name, maxClaim)
		}
		if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
			return fmt.Errorf("%s holds characters that no token can", name)
		}
	}
	return nil
}

// maxAhead is how far ahead a revocation may be dated: the issuer's leeway, and as much for this clock.
const maxAhead = 2 * Leeway

const (
	// Numbers have to become visible in order: a reader that saw 8 never asks for 7 again.
	lockRevocations = `lock table nudge.revocations in share row exclusive mode`

	// As for the change log: what was said to be done is in the flushed WAL, whatever the database's
	// setting.
	flushRevocation = `
  select case current_setting('synchronous_commit') when 'off' then set_config('synchronous_commit', 'local', true) end`

	writeRevocation = `
insert into nudge.revocations as r (user_id, device, jti, at, until) values ($1, $2, $3, coalesce($5, clock_timestamp()), $4)
on conflict (user_id, device, jti) do update set seq = default, at = greatest(r.at, excluded.at),
  until = case when r.until is null or excluded.until is null then null else greatest(r.until, excluded.until) end
returning seq, at, until`

	readRevocations = `
select seq, user_id, device, jti, at, until from nudge.revocations where seq > $1 order by seq`

	// Nodes' clocks may be behind the database's.
	trimRevocations = `delete from nudge.revocations where until < now() - interval '1 hour'`
)

// Write writes a revocation for every node to read, and returns it as it stands then: a second one of the
// same name takes the first one's place, with the later At and the later end.
func (r *Revocations) Write(ctx context.Context, rev Revocation) (Revocation, error) {
	if err := rev.Validate(); err != nil {
		return Revocation{}, err
	}
	err := pgx.BeginFunc(ctx, r.cfg.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockRevocations); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, flushRevocation); err != nil {
			return err
		}
		var at, until *time.Time
		if !rev.At.IsZero() {
			at = &rev.At
		}
		if !rev.Until.IsZero() {
			until = &rev.Until
		}
		row := tx.QueryRow(ctx, writeRevocation, rev.User, rev.Device, rev.JTI, until, at)
		if err := row.Scan(&rev.Seq, &rev.At, &until); err != nil {
			return err
		}
		rev.Until = time.Time{}
		if until != nil {
			rev.Until = *until
		}
		return nil
	})
	if err != nil {
		return Revocation{}, fmt.Errorf("write a revocation: %w", err)
	}
	return rev, nil
}

// fetch reads the revocations above a number, in order.
func (r *Revocations) fetch(ctx context.Context, after int64) ([]Revocation, error) {
	rows, err := r.cfg.Pool.Query(ctx, readRevocations, after)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Revocation, error) {
		var rev Revocation
		var until *time.Time
		err := row.Scan(&rev.Seq, &rev.User, &rev.Device, &rev.JTI, &rev.At, &until)
		if until != nil {
			rev.Until = *until
		}
		return rev, err
	})
}

// trim drops the revocations that have ended.
func (r *Revocations) trim(ctx context.Context) error {
	_, err := r.cfg.Pool.Exec(ctx, trimRevocations)
	return err
}
