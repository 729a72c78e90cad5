package config

// Decode reads a file's text, and validates it as far as that touches no other file.
func Decode(data []byte) (*Config, []*Error) {
	l := &loader{where: map[string]place{}}
	cfg := Default()
	l.decode("nudge.yaml", data, cfg)
	if !l.unusable() {
		cfg.Source.DSN, cfg.Source.SnapshotDSN, cfg.Log.DSN = "postgres://feed@127.0.0.1/app", "", ""
		l.validate(cfg)
	}
	return cfg, l.errs
}
