package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

const envPrefix = "NUDGE_"

// envName is the variable that stands for a key: source.dsn is NUDGE_SOURCE_DSN.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// foreignVariable tells variables that begin like ours and are not configuration: those that
// commands and tests read themselves, and those that Kubernetes sets in every pod when a service is
// named "nudge".
func foreignVariable(name string) bool {
	switch name {
	case "NUDGE_ADMIN_DSN", "NUDGE_PG_BIN", "NUDGE_PORT", "NUDGE_SERVICE_HOST":
		return true
	}
	return strings.HasPrefix(name, "NUDGE_PORT_") || strings.HasPrefix(name, "NUDGE_SERVICE_PORT")
}

// Paths lists the keys that one string can set, and so the environment and flags: all but those
// below maps and lists.
func Paths() []string {
	return sortedKeys(leaves("", reflect.ValueOf(&Config{}).Elem()))
}

// leaves are the fields that one string can set, by path.
func leaves(path string, v reflect.Value) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for name, i := range fieldsOf(v.Type()) {
		f, p := v.Field(i), join(path, name)
		switch {
		case f.Kind() == reflect.Struct:
			for k, leaf := range leaves(p, f) {
				out[k] = leaf
			}
		case isScalarType(f.Type()), f.Type() == reflect.TypeFor[[]string]():
			out[p] = f
		}
	}
	return out
}

// environment sets what NUDGE_… variables name. An empty variable is one that is not set.
func (l *loader) environment(env []string, cfg *Config) {
	fields := leaves("", reflect.ValueOf(cfg).Elem())
	paths := make(map[string]string, len(fields))
	for p := range fields {
		paths[envName(p)] = p
	}
	var twins []string
	for _, kv := range env {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || text == "" || foreignVariable(name) {
			continue
		}
		p, ok := paths[name]
		if !ok {
			l.unknownVariable(name, sortedKeys(paths))
			continue
		}
		l.override(p, text, fields, place{layer: fromEnv, name: name})
		twins = append(twins, p)
	}
	l.dropTwins(twins, fields, fromEnv)
}

// flags sets what flags name. A path that is no key is an error: it is ours, not the user's.
func (l *loader) flags(flags map[string]string, cfg *Config) {
	fields := leaves("", reflect.ValueOf(cfg).Elem())
	for _, p := range sortedKeys(flags) {
		if _, ok := fields[p]; !ok {
			l.errs = append(l.errs, &Error{Code: UnknownKey, Key: p, Message: fmt.Sprintf("a flag sets %q, which is no key", p)})
			continue
		}
		l.override(p, flags[p], fields, place{layer: fromFlag, name: "flag for " + p})
	}
	l.dropTwins(sortedKeys(flags), fields, fromFlag)
}

func (l *loader) override(path, text string, fields map[string]reflect.Value, at place) {
	l.where[path] = at
	v := fields[path]
	if v.Kind() == reflect.Slice {
		items := strings.Split(text, ",")
		for i := range items {
			items[i] = strings.TrimSpace(items[i])
		}
		v.Set(reflect.ValueOf(slices.DeleteFunc(items, func(s string) bool { return s == "" })))
		return
	}
	if err := setScalar(v, strings.TrimSpace(text)); err != nil {
		l.addKey(path, &Error{Code: Invalid, Message: err.Error()})
	}
}

// dropTwins lets a secret that a layer sets win over the secret's file of a lower layer, and the
// other way round: production names a file where nudge.yaml has a value for development.
func (l *loader) dropTwins(set []string, fields map[string]reflect.Value, by layer) {
	for _, p := range set {
		twin := p + "_file"
		if base, ok := strings.CutSuffix(p, "_file"); ok {
			twin = base
		}
		if f, ok := fields[twin]; ok && l.where[twin].layer < by {
			f.SetZero()
		}
	}
}

func (l *loader) unknownVariable(name string, known []string) {
	w := Warning{
		Code: "config_unknown_variable", Key: name,
		Message: fmt.Sprintf("the environment variable %s is not one of nudge's", name),
	}
	for i := range known {
		known[i] = strings.TrimPrefix(known[i], envPrefix) // which all share, and which proves nothing
	}
	if near := nearest(strings.TrimPrefix(name, envPrefix), known); near != "" {
		w.Hint = fmt.Sprintf("did you mean %s%s?", envPrefix, near)
	}
	l.warnings = append(l.warnings, w)
}
