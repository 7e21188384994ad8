package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kept is every request: when it was due, written and answered, on the clock that Python calls
// monotonic, and which of the different answers it got.
type kept struct {
	base    time.Time // the same moment as base_s
	baseS   float64
	rows    []float64
	answers []string
	number  map[string]int
}

func newKept() *kept {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return &kept{base: time.Now(), baseS: float64(ts.Nano()) / 1e9, number: map[string]int{}}
}

func (k *kept) add(one shot, ended time.Time, answer []byte) {
	number, ok := k.number[string(answer)]
	if !ok {
		number = len(k.answers)
		k.answers = append(k.answers, string(answer))
		k.number[string(answer)] = number
	}
	k.rows = append(k.rows, k.at(one.due), k.at(one.sent), k.at(ended), float64(number))
}

func (k *kept) at(when time.Time) float64 { return k.baseS + when.Sub(k.base).Seconds() }

// write makes FILE, four little-endian float64 for each request in the order of their answers, and
// FILE.json, the different answers (base64). A failure is an answer that begins with "failed: ".
func (k *kept) write(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := binary.Write(file, binary.LittleEndian, k.rows); err != nil {
		return err
	}
	answers := make([][]byte, len(k.answers))
	for i, answer := range k.answers {
		answers[i] = []byte(answer)
	}
	text, err := json.Marshal(answers)
	if err != nil {
		return err
	}
	return os.WriteFile(path+".json", text, 0o644)
}
