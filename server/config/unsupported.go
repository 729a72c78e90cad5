package config

// unsupported refuses what nudge.yaml can say and this version can't do. Ignoring it would be worse:
// rows would go to nobody, and writes nowhere.
func (l *loader) unsupported(cfg *Config) {
	refuse := func(set bool, path, what string) {
		if set {
			l.addKey(path, &Error{Code: Unsupported, Message: path + ": " + what + ", which this version doesn't do"})
		}
	}
	for _, name := range sortedKeys(cfg.Tables) {
		t, path := cfg.Tables[name], join("tables", name)
		refuse(t.Parent != nil, path+".parent", "routing by a parent row")
		refuse(t.Scope != "", path+".scope", "routing into a shared scope")
		refuse(len(t.Write) > 0, path+".write", "taking writes from devices")
	}
	refuse(len(cfg.Scopes) > 0, "scopes", "shared scopes")
	refuse(cfg.Bus.RedisURL != "", "bus.redis_url", "several nodes behind one Redis")
	refuse(cfg.Bus.KeyFile != "", "bus.key_file", "several nodes behind one Redis")
	refuse(len(cfg.Lanes) > 0, "lanes", "limits for a tenant class")
}
