package dev

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed page
var pageFiles embed.FS

// contentPolicy lets the page load itself and talk to where it came from, sockets included.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func page() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // embedded files have no date to compare
		serve.ServeHTTP(w, r)
	})
}

// PsqlLine is a shell line that changes the database behind nudge's back: it ticks off the demo
// user's next intake, and once all are taken it takes one back. A password is left out of it; psql
// asks for it. program is psql, or where it is.
func PsqlLine(program, dsn string) (string, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", fmt.Errorf("parse DSN: %w", err)
	}
	update := "update intakes set taken_at = case when taken_at is null then now() end" +
		" where id = (select id from intakes where user_id = " + strconv.Itoa(DemoUser) +
		" order by taken_at nulls first, due_at limit 1)"
	return fmt.Sprintf(`%s -h %s -p %d -U %s -d %s -c "%s"`,
		word(program), word(cfg.Host), cfg.Port, word(cfg.User), word(cfg.Database), update), nil
}

// word makes s one word of a POSIX shell.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:-]+$`)
