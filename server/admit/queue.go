package admit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Class is how urgent it is, the most urgent first.
type Class int

// The classes.
const (
	Foreground Class = iota // somebody looks at the device, or may
	Woken                   // a push woke the device
	Snapshot                // pages of live rows, for a device that starts over
	classes    = iota
)

// String is the class as metrics name it.
func (c Class) String() string { return [...]string{"foreground", "woken", "snapshot"}[c] }

// passes is how often in a row a class that waits is passed over for a more urgent one.
const passes = 4

// Config is a queue's. Places is needed; a zero field otherwise means the default.
type Config struct {
	Places      int           // held at the same time
	Snapshots   int           // of those, Snapshot's; as many as there are
	UserPlaces  int           // of those, one user's; a quarter, but one at least
	Waiting     int           // of each class at the same time; 1000
	UserWaiting int           // of one user, of all classes; 32
	Wait        time.Duration // for a place at most; 2 s. Of Woken and Snapshot twice that
	Metrics     *Metrics      // nil counts where nobody looks
}

// Validate names what is out of range.
func (c *Config) Validate() error {
	var errs []error
	if c.Places < 1 {
		errs = append(errs, fmt.Errorf("%d places", c.Places))
	}
	if c.Snapshots < 0 || c.UserPlaces < 0 || c.Waiting < 0 || c.UserWaiting < 0 || c.Wait < 0 {
		errs = append(errs, errors.New("a bound is negative"))
	}
	return errors.Join(errs...)
}

// Queue is the line. Its methods may be called from any goroutine.
type Queue struct {
	cfg     Config
	metrics *Metrics

	mu        sync.Mutex
	places    gate
	snapshots gate // within places
	lines     [classes]line
	users     map[string]*share // of those who hold a place or wait
}

// gate is a number of places.
type gate struct {
	most, held int
	moved      time.Time // when one was last taken or came free
}

func (g *gate) full() bool { return g.held >= g.most }

func (g *gate) move(by int, now time.Time) {
	g.held += by
	g.moved = now
}

// stuck reports whether nobody has come in, for want of a place, for as long as that.
func (g *gate) stuck(now time.Time, wait time.Duration) bool {
	return g.full() && now.Sub(g.moved) >= wait
}

// line is those of a class that wait.
type line struct {
	waiters list.List     // of *waiter, the first to come in front
	passed  int           // times in a row that a more urgent class was preferred
	held    time.Duration // mean time that a place is held, moving; 0: not known yet
	back    time.Time     // when the next one to be refused may come again
}

// share is what a user has.
type share struct{ held, waiting int }

// waiter is one that waits. Its fields are guarded by the queue's lock; granted is closed when it has its place.
type waiter struct {
	user    string
	granted chan struct{}
}

// New makes a queue.
func New(cfg Config) (*Queue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("admit: %w", err)
	}
	def(&cfg.Snapshots, cfg.Places)
	def(&cfg.UserPlaces, max(1, cfg.Places/4))
	def(&cfg.Waiting, 1000)
	def(&cfg.UserWaiting, 32)
	def(&cfg.Wait, 2*time.Second)
	if cfg.Metrics == nil {
		m, err := NewMetrics(prometheus.NewRegistry())
		if err != nil {
			return nil, fmt.Errorf("admit: %w", err)
		}
		cfg.Metrics = m
	}
	return &Queue{
		cfg: cfg, metrics: cfg.Metrics, users: map[string]*share{},
		places: gate{most: cfg.Places}, snapshots: gate{most: min(cfg.Snapshots, cfg.Places)},
	}, nil
}

func def[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Enter waits for a place and returns what gives it back, which has to be called, once or more. A user of ""
// is the node itself, which has no share. The error is a *Refusal, or ctx's.
//
// Who holds a place must not ask for another: two that did would wait for each other.
func (q *Queue) Enter(ctx context.Context, class Class, user string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	began := time.Now()
	q.mu.Lock()
	if q.fits(class, user) { // then nobody who waits does: they have their own place
		q.take(class, user, began)
		q.mu.Unlock()
		return q.entered(class, user, began, began), nil
	}
	if r := q.refuse(class, user, began); r != nil {
		q.mu.Unlock()
		return nil, r
	}
	w := &waiter{user: user, granted: make(chan struct{})}
	at := q.lines[class].waiters.PushBack(w)
	q.share(user).waiting++
	q.metrics.waiting.WithLabelValues(class.String()).Inc()
	q.mu.Unlock()

	timer := time.NewTimer(q.wait(class))
	defer timer.Stop()
	select {
	case <-w.granted:
		return q.entered(class, user, began, time.Now()), nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return q.giveUp(ctx, class, at, began)
}

// giveUp takes a waiter out of the line, unless it was given a place just now.
func (q *Queue) giveUp(ctx context.Context, class Class, at *list.Element, began time.Time) (leave func(), err error) {
	w := at.Value.(*waiter)
	now := time.Now()
	q.mu.Lock()
	select {
	case <-w.granted:
		q.mu.Unlock()
		leave = q.entered(class, w.user, began, now)
		if err := ctx.Err(); err != nil {
			leave()
			return nil, err
		}
		return leave, nil
	default:
	}
	defer q.mu.Unlock()
	q.remove(class, at)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, q.refusal(class, Late, now)
}

// entered notes how long it took, and makes leave.
func (q *Queue) entered(class Class, user string, began, now time.Time) (leave func()) {
	q.metrics.seconds.WithLabelValues(class.String()).Observe(now.Sub(began).Seconds())
	return sync.OnceFunc(func() { q.leave(class, user, now) })
}

// leave gives a place back to whoever is next.
func (q *Queue) leave(class Class, user string, since time.Time) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.places.move(-1, now)
	if class == Snapshot {
		q.snapshots.move(-1, now)
	}
	q.share(user).held--
	q.forget(user)
	q.metrics.held.WithLabelValues(class.String()).Dec()
	l := &q.lines[class]
	// What is longer than anybody waits says no more than that: a minute's standstill must not have those refused
	// who come when it is over.
	if took := min(now.Sub(since), q.wait(class)); l.held == 0 {
		l.held = took
	} else {
		l.held += (took - l.held) / 16
	}
	for {
		class, at := q.next()
		if at == nil {
			return
		}
		q.remove(class, at)
		w := at.Value.(*waiter)
		q.take(class, w.user, now)
		close(w.granted)
	}
}

// next is the waiter whose turn it is; nil if none of them may have a place.
func (q *Queue) next() (Class, *list.Element) {
	if q.places.full() {
		return 0, nil
	}
	var first [classes]*list.Element
	chosen := Class(classes)
	for c := range Class(classes) {
		first[c] = q.first(c)
		if first[c] != nil && (chosen == classes || q.lines[c].passed >= passes && q.lines[chosen].passed < passes) {
			chosen = c
		}
	}
	if chosen == classes {
		return 0, nil
	}
	for c := chosen + 1; c < classes; c++ {
		if first[c] != nil {
			q.lines[c].passed++
		}
	}
	q.lines[chosen].passed = 0
	return chosen, first[chosen]
}

// first is the first of a class that may have a place; nil if there is none.
func (q *Queue) first(class Class) *list.Element {
	for at := q.lines[class].waiters.Front(); at != nil; at = at.Next() {
		if q.fits(class, at.Value.(*waiter).user) {
			return at
		}
		if class == Snapshot && q.snapshots.full() {
			return nil
		}
	}
	return nil
}

// fits reports whether there is a place for one of the class and the user.
func (q *Queue) fits(class Class, user string) bool {
	if q.places.full() || class == Snapshot && q.snapshots.full() {
		return false
	}
	s := q.users[user]
	return user == "" || s == nil || s.held < q.cfg.UserPlaces
}

func (q *Queue) take(class Class, user string, now time.Time) {
	q.places.move(1, now)
	if class == Snapshot {
		q.snapshots.move(1, now)
	}
	q.share(user).held++
	q.metrics.held.WithLabelValues(class.String()).Inc()
}

// remove takes a waiter out of its line.
func (q *Queue) remove(class Class, at *list.Element) {
	user := at.Value.(*waiter).user
	q.lines[class].waiters.Remove(at)
	q.share(user).waiting--
	q.forget(user)
	q.metrics.waiting.WithLabelValues(class.String()).Dec()
}

func (q *Queue) share(user string) *share {
	s := q.users[user]
	if s == nil {
		s = &share{}
		q.users[user] = s
	}
	return s
}

// forget drops a user who has nothing here.
func (q *Queue) forget(user string) {
	if s := q.users[user]; s.held == 0 && s.waiting == 0 {
		delete(q.users, user)
	}
}

// wait is how long one of the class may wait.
func (q *Queue) wait(class Class) time.Duration {
	if class == Foreground {
		return q.cfg.Wait
	}
	return 2 * q.cfg.Wait
}
