//! The part of Python's pickle that torch's state dicts need: a machine that builds values and never runs anything.
//!
//! A pickle is a program that pushes values on a stack, and calls whatever Python can import. Here are the opcodes and the
//! six kinds of callables that occur in state dicts; any other is an error that names it. Values lie in arenas and refer
//! to each other by number, so that neither depth nor cycles matter, and memory is in proportion to the pickle.
//! (candle's reader clones what it remembers, which a small file can double again and again, and passes over what it
//! does not know.)

use std::collections::HashMap;

use safetensors::Dtype;

/// A tensor of a state dict, as the pickle describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub storage: Storage<'a>,
    /// Its first value, counted in values of the storage.
    pub offset: i64,
    /// Tuples of integers.
    shape: usize,
    strides: usize,
}

/// A storage: the values of one entry of the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub dtype: Dtype,
    /// The entry's name.
    pub key: &'a str,
    /// How many values it holds.
    pub count: i64,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Class(Class),
    Storage(Storage<'a>),
    Tensor(Tensor<'a>),
}

/// What may be named.
#[derive(Clone, Copy, Debug)]
enum Class {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Class {
    fn named(module: &str, name: &str) -> Result<Self, String> {
        let storage = |name: &str| {
            Some(match name.strip_suffix("Storage")? {
                "Float" => Dtype::F32,
                "Half" => Dtype::F16,
                "BFloat16" => Dtype::BF16,
                "Double" => Dtype::F64,
                "Long" => Dtype::I64,
                "Int" => Dtype::I32,
                "Short" => Dtype::I16,
                "Char" => Dtype::I8,
                "Byte" => Dtype::U8,
                "Bool" => Dtype::BOOL,
                _ => return None,
            })
        };
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", name) => storage(name).map(Self::Storage),
            _ => None,
        }
        .ok_or_else(|| format!("it names `{module}.{name}`, which no state dict needs; nothing of it was run"))
    }
}

/// The machine. Every error says what the pickle asked for.
pub(super) struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack, for opcodes that take all that lies above the last.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// The values of tuples and of lists.
    sequences: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
}

/// Tensors by name, in the pickle's order.
type StateDict<'a> = Vec<(&'a str, Tensor<'a>)>;

impl<'a> Machine<'a> {
    /// Runs a pickle to its end; its value must be a dict whose keys are texts and whose values are tensors.
    pub fn run(pickle: &'a [u8]) -> Result<(Self, StateDict<'a>), String> {
        let mut machine = Self {
            pickle,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            sequences: Vec::new(),
            dicts: Vec::new(),
        };
        let value = loop {
            let start = machine.at;
            let value = machine.step().map_err(|why| format!("at byte {start} of its pickle: {why}"))?;
            if let Some(value) = value {
                break value;
            }
        };
        let Value::Dict(dict) = value else { return Err("it holds no dict of tensors".to_owned()) };
        let tensors = machine.dicts[dict]
            .iter()
            .map(|entry| match *entry {
                (Value::Text(name), Value::Tensor(tensor)) => Ok((name, tensor)),
                (Value::Text(name), _) => Err(format!("`{name}` in it is no tensor: this is no state dict")),
                _ => Err("a key in it is no text: this is no state dict".to_owned()),
            })
            .collect::<Result<_, _>>()?;
        Ok((machine, tensors))
    }

    /// Shape and strides of a tensor, in values.
    pub fn layout(&self, tensor: &Tensor) -> Result<(Vec<usize>, Vec<usize>), String> {
        let sizes = |tuple: usize| -> Result<Vec<usize>, String> {
            let size = |value: &Value| match *value {
                Value::Int(size) => usize::try_from(size).map_err(|_| format!("a tensor has the size {size}")),
                _ => Err("a size of a tensor is no number".to_owned()),
            };
            self.sequences[tuple].iter().map(size).collect()
        };
        Ok((sizes(tensor.shape)?, sizes(tensor.strides)?))
    }

    /// One opcode; the value of the pickle when it is the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let [opcode] = self.take()?;
        let value = match opcode {
            // PROTO, FRAME: which version, and how much may be read at once.
            0x80 => return self.take::<1>().map(|_| None),
            0x95 => return self.take::<8>().map(|_| None),
            b'.' => return self.pop().map(Some),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            // MEMOIZE, BINPUT, LONG_BINPUT; BINGET, LONG_BINGET
            0x94 => return self.remember(self.memo.len() as u32),
            b'q' => {
                let [number] = self.take()?;
                return self.remember(number.into());
            }
            b'r' => {
                let number = u32::from_le_bytes(self.take()?);
                return self.remember(number);
            }
            b'h' => {
                let [number] = self.take()?;
                self.remembered(number.into())?
            }
            b'j' => {
                let number = u32::from_le_bytes(self.take()?);
                self.remembered(number)?
            }
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
            b'G' => {
                self.take::<8>()?;
                Value::Float
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => Value::Int(i32::from_le_bytes(self.take()?).into()),
            b'K' => {
                let [value] = self.take()?;
                Value::Int(value.into())
            }
            b'M' => Value::Int(u16::from_le_bytes(self.take()?).into()),
            0x8a => self.long()?,
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                self.text(length.into())?
            }
            0x8c => {
                let [length] = self.take()?;
                self.text(length.into())?
            }
            0x8d => {
                let length = u64::from_le_bytes(self.take()?);
                self.text(length)?
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Class(Class::named(module, name)?)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err("it names something by what is no text".to_owned());
                };
                Value::Class(Class::named(module, name)?)
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).filter(|from| *from >= self.floor());
                let from = from.ok_or("the stack is empty")?;
                let values = self.stack.split_off(from);
                self.tuple(values)
            }
            b't' => {
                let values = self.above_mark()?;
                self.tuple(values)
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => {
                self.sequences.push(Vec::new());
                Value::List(self.sequences.len() - 1)
            }
            b'a' => {
                let value = self.pop()?;
                return self.append(vec![value]);
            }
            b'e' => {
                let values = self.above_mark()?;
                return self.append(values);
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.dict(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.set(&[key, value]);
            }
            b'u' => {
                let values = self.above_mark()?;
                return self.set(&values);
            }
            // BINPERSID, REDUCE, BUILD
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?
            }
            b'b' => {
                // The attributes of a dict (torch keeps versions of modules there) say nothing about tensors.
                let (_, Value::Dict(_)) = (self.pop()?, self.top()?) else {
                    return Err("it sets attributes of what is no dict".to_owned());
                };
                return Ok(None);
            }
            other => return Err(format!("it uses the opcode {other:#04x}, which no state dict needs")),
        };
        self.stack.push(value);
        Ok(None)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.pickle.len());
        let end = end.ok_or("it ends too early")?;
        let bytes = &self.pickle[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    /// Up to and without the next line feed.
    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.pickle[self.at..].iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        let line = self.bytes(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "a name is no text".to_owned())
    }

    fn text(&mut self, length: u64) -> Result<Value<'a>, String> {
        let length = usize::try_from(length).map_err(|_| "it ends too early".to_owned())?;
        std::str::from_utf8(self.bytes(length)?).map(Value::Text).map_err(|_| "a text is not UTF-8".to_owned())
    }

    /// An integer of up to eight bytes.
    fn long(&mut self) -> Result<Value<'a>, String> {
        let [length] = self.take()?;
        let bytes = self.bytes(length.into())?;
        if bytes.len() > 8 {
            return Err(format!("a number has {length} bytes"));
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let all = std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(sign));
        Ok(Value::Int(i64::from_le_bytes(all)))
    }

    /// What no opcode may take from the stack: all below the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, String> {
        self.stack[self.floor()..].last().copied().ok_or("the stack is empty".to_owned())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn above_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, number: u32) -> Result<Option<Value<'a>>, String> {
        let value = self.top()?;
        self.memo.insert(number, value);
        Ok(None)
    }

    fn remembered(&self, number: u32) -> Result<Value<'a>, String> {
        self.memo.get(&number).copied().ok_or_else(|| format!("it recalls a value {number} that it never kept"))
    }

    fn tuple(&mut self, values: Vec<Value<'a>>) -> Value<'a> {
        self.sequences.push(values);
        Value::Tuple(self.sequences.len() - 1)
    }

    fn dict(&mut self) -> Value<'a> {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    fn append(&mut self, mut values: Vec<Value<'a>>) -> Result<Option<Value<'a>>, String> {
        let Value::List(list) = self.top()? else { return Err("it appends to what is no list".to_owned()) };
        self.sequences[list].append(&mut values);
        Ok(None)
    }

    fn set(&mut self, values: &[Value<'a>]) -> Result<Option<Value<'a>>, String> {
        let Value::Dict(dict) = self.top()? else { return Err("it sets an entry of what is no dict".to_owned()) };
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("it sets a key without a value".to_owned());
        }
        self.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(None)
    }

    /// A persistent id: ("storage", class, key, device, count).
    fn storage(&self, id: Value<'a>) -> Result<Value<'a>, String> {
        if let Value::Tuple(tuple) = id
            && let [
                Value::Text("storage"),
                Value::Class(Class::Storage(dtype)),
                Value::Text(key),
                _,
                Value::Int(count),
            ] = self.sequences[tuple][..]
        {
            return Ok(Value::Storage(Storage { dtype, key, count }));
        }
        Err("it refers to something beside the pickle that is no storage".to_owned())
    }

    fn call(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, String> {
        let (Value::Class(class), Value::Tuple(arguments)) = (callable, arguments) else {
            return Err("it calls what cannot be called".to_owned());
        };
        let arguments = &self.sequences[arguments][..];
        match (class, arguments) {
            (Class::OrderedDict, []) => Ok(self.dict()),
            (
                Class::RebuildTensor,
                &[Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..],
            ) => Ok(Value::Tensor(Tensor { storage, offset, shape, strides })),
            (Class::RebuildParameter, &[Value::Tensor(tensor), ..]) => Ok(Value::Tensor(tensor)),
            _ => Err(format!("it calls {class:?} with what that does not take")),
        }
    }
}
