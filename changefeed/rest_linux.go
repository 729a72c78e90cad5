package changefeed

import "syscall"

// setLowWater sets SO_RCVLOWAT, socket(7).
func setLowWater(fd uintptr, n int) error {
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
}
