// Package floor has the programs that benches measure nudge against: each does the least that the job
// could take. A bench runs them in a process of their own, by running itself again.
package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/nudgesync/nudge/internal/bench"
)

// Answer is what the constant handler says, to everybody.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Argument has a bench's program be the floor: it calls HTTP then.
const Argument = "-constant"

// Start runs this program again, as the constant handler. Its first line is the address.
func Start(ctx context.Context, a Answer) (*bench.Process, error) {
	a.Header = a.Header.Clone()
	for _, name := range []string{"Date", "Content-Length"} { // net/http's own
		a.Header.Del(name)
	}
	input, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	cmd, err := bench.Self(ctx, Argument)
	if err != nil {
		return nil, err
	}
	return bench.Start(cmd, input)
}

// HTTP serves the answer that it reads, with net/http as it is, until ctx ends. It prints its address.
func HTTP(ctx context.Context, in io.Reader, out io.Writer) error {
	var a Answer
	if err := json.NewDecoder(in).Decode(&a); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	l, err := listen(ctx, out)
	if err != nil {
		return err
	}
	length := []string{strconv.Itoa(len(a.Body))}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for name, values := range a.Header {
			h[name] = values
		}
		if len(a.Body) > 0 {
			h["Content-Length"] = length
		}
		w.WriteHeader(a.Status)
		_, _ = w.Write(a.Body) // a 304 takes none
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listen takes a free port of this machine and says which.
func listen(ctx context.Context, out io.Writer) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(out, l.Addr()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
