package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Cost is what processes have used so far.
type Cost struct {
	CPU      time.Duration // user and system
	Peak     int64         // of resident memory, in bytes: what is shared with others is counted too
	Resident int64         // what it has now
}

// clockTick is what /proc counts CPU in: USER_HZ, 100 on every architecture that Go runs on.
const clockTick = time.Second / 100

// CostOf reads what a process has used from /proc. The error says that there is no such process any
// more, or no /proc.
func CostOf(pid int) (Cost, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Cost{}, fmt.Errorf("read the cost of process %d: %w", pid, err)
	}
	// The name, in brackets, may hold anything. utime and stime are the 14th and 15th field, proc(5).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return Cost{}, fmt.Errorf("read the cost of process %d: %q", pid, stat)
	}
	var c Cost
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return Cost{}, fmt.Errorf("read the cost of process %d: %w", pid, err)
		}
		c.CPU += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return Cost{}, fmt.Errorf("read the cost of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(status) {
		for name, to := range map[string]*int64{"VmHWM:": &c.Peak, "VmRSS:": &c.Resident} {
			rest, ok := bytes.CutPrefix(line, []byte(name))
			if !ok {
				continue
			}
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			if err != nil {
				return Cost{}, fmt.Errorf("read the memory of process %d: %w", pid, err)
			}
			*to = kib << 10
		}
	}
	return c, nil
}
