package devpg

import (
	"io/fs"
	"syscall"
)

// mayEnter reads the permission bits alone; an access list may say otherwise, and then Postgres does.
func (a *account) mayEnter(dir fs.FileInfo) bool {
	stat, ok := dir.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return true
	case stat.Uid == a.uid:
		return dir.Mode()&0o100 != 0
	case stat.Gid == a.gid:
		return dir.Mode()&0o010 != 0
	}
	return dir.Mode()&0o001 != 0
}
