package floor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
)

// Raw accepts connections and has a goroutine wait on each, until ctx ends. It prints its address.
func Raw(ctx context.Context, out io.Writer) error {
	l, err := listen(ctx, out)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil // the process ends, and with it what waits
		}
		if err != nil {
			return err
		}
		go func() {
			var b [1]byte
			for {
				if _, err := conn.Read(b[:]); err != nil {
					_ = conn.Close()
					return
				}
			}
		}()
	}
}

// WebSockets accepts sockets with coder/websocket as it is, and answers each frame with one of this size.
// For each line that it reads it writes such a frame to every socket, in random order, from as many goroutines
// as there are processors. It prints its address.
func WebSockets(ctx context.Context, frame int, in io.Reader, out io.Writer) error {
	l, err := listen(ctx, out)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var conns []*websocket.Conn
	text := make([]byte, frame)
	for i := range text {
		text[i] = 'x'
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			InsecureSkipVerify: true, Subprotocols: []string{r.Header.Get("Sec-WebSocket-Protocol")},
			CompressionMode: websocket.CompressionDisabled,
		})
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
		go func() { // the handler returns, which frees what net/http holds
			for {
				if _, _, err := conn.Read(ctx); err != nil {
					return
				}
				if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
					return
				}
			}
		}()
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	go func() {
		for scan := bufio.NewScanner(in); scan.Scan(); {
			mu.Lock()
			all := append([]*websocket.Conn(nil), conns...)
			mu.Unlock()
			if err := fan(ctx, all, text); err != nil {
				_, _ = fmt.Fprintln(out, err)
			}
		}
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func fan(ctx context.Context, conns []*websocket.Conn, text []byte) error {
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	workers := runtime.GOMAXPROCS(0)
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(conns); i += workers {
				if err := conns[i].Write(ctx, websocket.MessageText, text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
