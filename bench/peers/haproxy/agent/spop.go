package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What of the Stream Processing Offload Protocol 2.0 (HAProxy's doc/SPOE.txt, section 3) an agent needs that sets one variable
// for each message.
const (
	maxFrameSize = 16380

	haproxyHello      = 1
	haproxyDisconnect = 2
	notify            = 3
	agentHello        = 101
	agentDisconnect   = 102
	ack               = 103

	flagFinal = 1

	actionSetVariable = 1
	scopeTransaction  = 2

	typeNull   = 0
	typeBool   = 1
	typeInt32  = 2
	typeUint32 = 3
	typeInt64  = 4
	typeUint64 = 5
	typeIPv4   = 6
	typeIPv6   = 7
	typeString = 8
	typeBinary = 9
)

var errShort = errors.New("a frame ends early")

// Message is one of a NOTIFY frame. What it points to holds until the next frame is read.
type Message struct {
	Name      []byte
	arguments []argument
}

type argument struct {
	name, value []byte
}

// Argument is the value of a text or binary argument; nil for one that is empty, of another type or not there.
func (m Message) Argument(name string) []byte {
	for _, argument := range m.arguments {
		if string(argument.name) == name {
			return argument.value
		}
	}
	return nil
}

// Variable is set in the scope of the transaction.
type Variable struct {
	Name  string
	Value int64
}

// Serve answers the frames of one connection of HAProxy until that disconnects. HAProxy may send many frames before it reads an
// answer (pipelining): answers are written when no further frame is waiting.
func Serve(connection io.ReadWriter, answer func(Message) Variable) error {
	reader := bufio.NewReaderSize(connection, 4*maxFrameSize)
	writer := bufio.NewWriterSize(connection, 4*maxFrameSize)
	frame := make([]byte, 0, maxFrameSize)
	out := make([]byte, 0, maxFrameSize)
	var arguments []argument
	defer writer.Flush()
	for {
		if reader.Buffered() == 0 {
			if err := writer.Flush(); err != nil {
				return err
			}
		}
		var size [4]byte
		if _, err := io.ReadFull(reader, size[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		length := binary.BigEndian.Uint32(size[:])
		if length > maxFrameSize {
			return fmt.Errorf("a frame of %d bytes", length)
		}
		frame = frame[:length]
		if _, err := io.ReadFull(reader, frame); err != nil {
			return err
		}
		in := decoder{rest: frame}
		kind := in.byte()
		in.take(4)
		stream, id := in.integer(), in.integer()
		if in.failed {
			return errShort
		}
		out = append(out[:0], 0, 0, 0, 0)
		switch kind {
		case haproxyHello:
			out = header(out, agentHello, 0, 0)
			out = text(append(text(out, "version"), typeString), "2.0")
			out = integer(append(text(out, "max-frame-size"), typeUint32), maxFrameSize)
			out = text(append(text(out, "capabilities"), typeString), "pipelining")
		case notify:
			out = header(out, ack, stream, id)
			for len(in.rest) > 0 {
				message := Message{Name: in.bytes(), arguments: arguments[:0]}
				for count := in.byte(); count > 0 && !in.failed; count-- {
					message.arguments = append(message.arguments, argument{in.bytes(), in.value()})
				}
				if in.failed {
					return errShort
				}
				variable := answer(message)
				out = text(append(out, actionSetVariable, 3, scopeTransaction), variable.Name)
				out = integer(append(out, typeInt64), uint64(variable.Value))
				arguments = message.arguments
			}
		case haproxyDisconnect:
			out = header(out, agentDisconnect, 0, 0)
			out = integer(append(text(out, "status-code"), typeUint32), 0)
			out = text(append(text(out, "message"), typeString), "bye")
		default:
			continue
		}
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := writer.Write(out); err != nil {
			return err
		}
		if kind == haproxyDisconnect {
			return nil
		}
	}
}

func header(out []byte, kind byte, stream, frame uint64) []byte {
	return integer(integer(append(out, kind, 0, 0, 0, flagFinal), stream), frame)
}

// integer appends a number of variable length: four bits of it in the first byte, seven in each that follows.
func integer(out []byte, value uint64) []byte {
	if value < 240 {
		return append(out, byte(value))
	}
	out = append(out, byte(value)|240)
	value = (value - 240) >> 4
	for value >= 128 {
		out = append(out, byte(value)|128)
		value = (value - 128) >> 7
	}
	return append(out, byte(value))
}

func text(out []byte, value string) []byte { return append(integer(out, uint64(len(value))), value...) }

// decoder takes values off the front of a frame; failed says that there was too little.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) take(count uint64) []byte {
	if count > uint64(len(d.rest)) {
		d.rest, d.failed = nil, true
		return nil
	}
	taken := d.rest[:count]
	d.rest = d.rest[count:]
	return taken
}

func (d *decoder) byte() byte {
	if taken := d.take(1); taken != nil {
		return taken[0]
	}
	return 0
}

func (d *decoder) integer() uint64 {
	value := uint64(d.byte())
	if value < 240 {
		return value
	}
	for shift := 4; shift < 64; shift += 7 {
		next := d.byte()
		value += uint64(next) << shift
		if next < 128 {
			return value
		}
	}
	d.failed = true
	return 0
}

func (d *decoder) bytes() []byte { return d.take(d.integer()) }

func (d *decoder) value() []byte {
	switch kind := d.byte() & 15; kind {
	case typeNull, typeBool:
	case typeInt32, typeUint32, typeInt64, typeUint64:
		d.integer()
	case typeIPv4:
		return d.take(4)
	case typeIPv6:
		return d.take(16)
	case typeString, typeBinary:
		return d.bytes()
	default:
		d.failed = true
	}
	return nil
}
