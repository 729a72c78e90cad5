package devpg

import "syscall"

// childAttr drops root, takes the child out of the terminal's process group (a Ctrl-C is for the
// parent, which stops the server in its own order), and has the kernel end the child with its parent.
func childAttr(owner *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	if owner != nil {
		attr.Credential = &syscall.Credential{Uid: owner.uid, Gid: owner.gid}
	}
	return attr
}
