package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Source says where a configuration comes from. Later ones win: Path, Env, Flags.
type Source struct {
	// Path of the file; "" for none.
	Path string
	// Env is the environment, as os.Environ has it. Of it, NUDGE_… is read.
	Env []string
	// Flags are values by the path of their key ("listen.public"), in the form that the
	// environment has them.
	Flags map[string]string
}

// layer is where a value came from; a higher one wins.
type layer int

const (
	fromFile layer = iota
	fromEnv
	fromFlag
)

// place is where a value was configured, for errors about it.
type place struct {
	layer        layer
	file         string
	line, column int
	excerpt      string
	name         string // of the variable or flag, if it was one
}

// loader is one run of Load.
type loader struct {
	where    map[string]place // by path
	errs     []*Error
	warnings []Warning
}

// Load reads, merges and validates a configuration. Its error joins one *Error for each defect it
// found. Warnings come with either outcome.
func Load(src Source) (*Config, []Warning, error) {
	l := &loader{where: map[string]place{}}
	cfg := Default()
	if src.Path != "" {
		data, err := os.ReadFile(src.Path)
		if err != nil {
			l.errs = append(l.errs, unreadable(src.Path, err))
		} else {
			l.decode(src.Path, bytes.TrimPrefix(data, []byte("\ufeff")), cfg)
		}
	}
	l.environment(src.Env, cfg)
	l.flags(src.Flags, cfg)
	if !l.unusable() {
		l.readSecrets(cfg)
		cfg.Log.Witness = l.beside("log.witness", cfg.Log.Witness)
		l.validate(cfg)
	}
	if len(l.errs) > 0 {
		return nil, l.warnings, l.failure()
	}
	return cfg, l.warnings, nil
}

// Validate holds a configuration that was not loaded, but made, against the same rules as Load,
// and reads the files of its secrets.
func (c *Config) Validate() error {
	l := &loader{where: map[string]place{}}
	l.readSecrets(c)
	l.validate(c)
	return l.failure()
}

// failure joins the errors in the order of their places.
func (l *loader) failure() error {
	slices.SortStableFunc(l.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	joined := make([]error, len(l.errs))
	for i, e := range l.errs {
		joined[i] = e
	}
	return errors.Join(joined...)
}

// unusable says whether the file could not be read at all, so that everything would seem missing.
func (l *loader) unusable() bool {
	return slices.ContainsFunc(l.errs, func(e *Error) bool { return e.Code == Unreadable || e.Code == Syntax })
}

// add records an error at a place.
func (l *loader) add(p place, e *Error) {
	e.File, e.Line, e.Column, e.Excerpt = p.file, p.line, p.column, p.excerpt
	if p.name != "" {
		e.Message = p.name + ": " + e.Message
	}
	l.errs = append(l.errs, e)
}

// addKey records an error about the value of a key, at the place it came from: its own, or that of
// the nearest key around it.
func (l *loader) addKey(path string, e *Error) {
	e.Key = path
	l.add(l.place(path), e)
}

func (l *loader) place(path string) place {
	for p := path; p != ""; p = parentPath(p) {
		if at, ok := l.where[p]; ok {
			return at
		}
	}
	return place{}
}

// parentPath cuts the last key or index off a path. A table's name has a dot of its own, which costs
// one more, fruitless, step.
func parentPath(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

func unreadable(path string, err error) *Error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	e := &Error{Code: Unreadable, File: path, Message: err.Error()}
	e.Hint = "name a file that this user may read with --config"
	if errors.Is(err, os.ErrNotExist) {
		e.Hint = "start from nudge.example.yaml, or name the file with --config"
	}
	return e
}

// readSecrets fills every secret that is configured by its file.
func (l *loader) readSecrets(cfg *Config) {
	l.secret("source.dsn", &cfg.Source.DSN, &cfg.Source.DSNFile)
	l.secret("source.snapshot_dsn", &cfg.Source.SnapshotDSN, &cfg.Source.SnapshotDSNFile)
	l.secret("source.origin_secret", &cfg.Source.OriginSecret, &cfg.Source.OriginSecretFile)
	l.secret("log.dsn", &cfg.Log.DSN, &cfg.Log.DSNFile)
	l.readPushSecrets(&cfg.Push)
	l.secret("bus.redis_url", &cfg.Bus.RedisURL, &cfg.Bus.RedisURLFile)
	for i := range cfg.Auth.Keys {
		k := &cfg.Auth.Keys[i]
		l.secret(fmt.Sprintf("auth.keys[%d].secret", i), &k.Secret, &k.SecretFile)
		l.secret(fmt.Sprintf("auth.keys[%d].public_key", i), &k.PublicKey, &k.PublicKeyFile)
	}
}

// secret reads one file, and clears its name, since the value is known from here on. A file named in
// nudge.yaml is looked for beside it, any other in the working directory.
func (l *loader) secret(path string, value *Secret, from *string) {
	file := *from
	if file == "" {
		return
	}
	key := path + "_file"
	if *value != "" {
		l.addKey(key, &Error{
			Code: SecretTwice, Message: path + " and " + key + " are both set",
			Hint: "keep one of them",
		})
		return
	}
	at := l.place(key)
	file = l.beside(key, file)
	*from = ""
	l.where[path] = at
	data, err := os.ReadFile(file)
	if err != nil {
		*value = unknownSecret
		e := &Error{Code: Unreadable, Message: fmt.Sprintf("%s: %s: %s", key, file, unreadable(file, err).Message)}
		if errors.Is(err, os.ErrNotExist) {
			e.Hint = "make it, or correct the name; a relative one counts from the configuration file's directory"
		}
		l.addKey(key, e)
		return
	}
	if *value = Secret(bytes.TrimRight(data, "\r\n")); *value == "" {
		*value = unknownSecret
		l.addKey(key, &Error{Code: Invalid, Message: fmt.Sprintf("%s: %s is empty", key, file)})
	}
}

// beside completes the relative name of a file that nudge.yaml names: it counts from there.
func (l *loader) beside(key, file string) string {
	at := l.place(key)
	if file != "" && at.layer == fromFile && at.file != "" && !filepath.IsAbs(file) {
		return filepath.Join(filepath.Dir(at.file), file)
	}
	return file
}

// unknownSecret stands for one whose file could not be read, so that it isn't reported as missing
// and malformed, too.
const unknownSecret = Secret("\x00")
