package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const help = "commands: mine N, pay ADDRESS SATS, reorg N, info"

// runCommands runs the commands in the lines of in, until its end, and prints a line for
// each.
func (s *server) runCommands(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		result, err := s.command(fields[0], fields[1:])
		if err != nil {
			result = "error: " + err.Error()
		}
		fmt.Fprintln(out, result)
	}
}

// command runs a command, and returns the line to be printed.
func (s *server) command(name string, args []string) (string, error) {
	switch {
	case name == "mine" && len(args) == 1:
		n, err := count(args[0])
		if err != nil {
			return "", err
		}
		if err := s.mine(n); err != nil {
			return "", err
		}
		return fmt.Sprintf("mined %d, %s", n, s.info()), nil
	case name == "reorg" && len(args) == 1:
		n, err := count(args[0])
		if err != nil {
			return "", err
		}
		err = s.update(func(c *chain) error { return c.reorganise(n, time.Now().Unix()) })
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("reorganised %d, %s", n, s.info()), nil
	case name == "pay" && len(args) == 2:
		script, err := scriptOf(args[0])
		if err != nil {
			return "", err
		}
		value, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return "", fmt.Errorf("%q is not a number of satoshis", args[1])
		}
		var paid *transaction
		err = s.update(func(c *chain) (err error) {
			paid, err = c.pay(script, value)
			return err
		})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("paid %d, transaction %v", value, paid.id), nil
	case name == "info" && len(args) == 0:
		return s.info(), nil
	}
	return "", fmt.Errorf("unknown command; %s", help)
}

// count returns a number of blocks.
func count(text string) (int, error) {
	const most = 10_000
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%q is not a number of blocks from 1 to %d", text, most)
	}
	return n, nil
}

// mine adds n blocks, one by one.
func (s *server) mine(n int) error {
	for range n {
		if err := s.update(func(c *chain) error { return c.mine(time.Now().Unix()) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) info() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return fmt.Sprintf("height %d, tip %v, %d transactions wait", s.chain.height(), s.chain.tip().hash, len(s.chain.mempool))
}
