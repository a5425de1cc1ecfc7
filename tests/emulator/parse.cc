// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <cstring>

#include "ptx.h"

namespace emulator {
namespace {

// Words, numbers and punctuation of one statement.
std::vector<std::string> tokens_of(const std::string& text) {
  std::vector<std::string> found;
  const auto part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
           c == '.' || c == ':';
  };
  for (std::size_t i = 0; i < text.size();) {
    if (std::isspace(static_cast<unsigned char>(text[i]))) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    if (part(text[i]) || (text[i] == '-' && end < text.size() && std::isdigit(text[end]))) {
      while (end < text.size() && part(text[end])) ++end;
    }
    found.push_back(text.substr(i, end - i));
    i = end;
  }
  return found;
}

std::uint64_t number(const std::string& text) {
  // 0f3F800000 and 0d3FF0000000000000 are the bits of floats.
  const bool bits = text.size() > 2 && text[0] == '0' && (text[1] == 'f' || text[1] == 'd');
  std::size_t used = 0;
  const std::string digits = bits ? text.substr(2) : text;
  const int base = bits ? 16 : 0;
  const std::uint64_t value = digits[0] == '-'
                                  ? static_cast<std::uint64_t>(std::stoll(digits, &used, base))
                                  : std::stoull(digits, &used, base);
  if (used != digits.size() && digits.substr(used) != "U") throw Error("number " + text);
  return value;
}

class Reader {
 public:
  explicit Reader(const std::string& text) : text_(text) {}

  std::map<std::string, Kernel> module() {
    std::string statement;
    while (next(statement)) {
      const auto entry = statement.find(".entry");
      if (entry != std::string::npos) {
        begin_kernel(tokens_of(statement.substr(entry + 6)));
      } else if (statement == "{" || statement == "}") {
        scopes_ += statement == "{" ? 1 : -1;
        if (kernel_ == nullptr || scopes_ < -1) throw Error("braces");
        if (scopes_ == -1) end_kernel();
      } else if (kernel_ != nullptr) {
        at_line(statement);
      } else if (statement[0] != '.' || statement.find(".func") != std::string::npos ||
                 statement.find(".global") != std::string::npos ||
                 statement.find(".const") != std::string::npos) {
        throw Error("line " + std::to_string(line_) + ": " + statement);
      }
    }
    return std::move(kernels_);
  }

 private:
  // A statement ends with ; or { or }, a label with :, a directive of the module with its line.
  bool next(std::string& statement) {
    statement.clear();
    int depth = 0;  // of operands in braces
    for (; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == '\n') ++line_;
      if (c == '/' && text_.compare(at_, 2, "//") == 0) {
        while (at_ + 1 < text_.size() && text_[at_ + 1] != '\n') ++at_;
        continue;
      }
      if (std::isspace(static_cast<unsigned char>(c))) {
        const bool directive = kernel_ == nullptr && c == '\n' && !statement.empty() &&
                               statement.find(".entry") == std::string::npos;
        if (directive) return ++at_, true;
        if (!statement.empty()) statement += ' ';
        continue;
      }
      const bool body = c == '{' && statement.find(".entry") != std::string::npos;
      const bool scope = (c == '{' || c == '}') && statement.empty();
      if (c == ';' || body || scope) {
        if (scope) statement = c;
        ++at_;
        return true;
      }
      if (c == '{') ++depth;
      if (c == '}') --depth;
      statement += c;
      if (c == ':' && depth == 0 && statement[0] == '$') return ++at_, true;
    }
    return !statement.empty();
  }

  void begin_kernel(const std::vector<std::string>& words) {
    Kernel kernel;
    kernel.name = words.at(0);
    std::uint32_t align = 1;
    for (std::size_t i = 1; i < words.size(); ++i) {
      if (words[i] == ".align") align = static_cast<std::uint32_t>(number(words.at(++i)));
      if (words[i] == ".maxntid") {
        kernel.most_threads = 1;
        for (++i; i < words.size() && words[i][0] != '.'; ++i) {
          if (words[i] != ",") kernel.most_threads *= static_cast<std::uint32_t>(number(words[i]));
        }
        --i;
      }
      if (words[i] != ".param") continue;
      std::uint32_t size = 1;
      std::string name;
      for (++i; i < words.size() && words[i] != "," && words[i] != ")"; ++i) {
        const std::string& word = words[i];
        if (word == ".align") {
          align = static_cast<std::uint32_t>(number(words.at(++i)));
        } else if (word == ".ptr") {  // and all behind it but the name: what it points to
          while (words.at(i + 1)[0] == '.') i += words.at(i + 1) == ".align" ? 2 : 1;
        } else if (word == "[") {
          size *= static_cast<std::uint32_t>(number(words.at(++i)));
        } else if (word[0] == '.') {
          size = static_cast<std::uint32_t>(number(word.substr(2))) / 8;
          align = std::max(align, size);
        } else if (word != "]") {
          name = word;
        }
      }
      const std::uint32_t offset = (kernel.parameter_bytes + align - 1) / align * align;
      kernel.parameter_offset.push_back(offset);
      kernel.parameter_size.push_back(size);
      kernel.parameter_bytes = offset + size;
      symbols_[name] = tagged(Space::kParam, offset);
      align = 1;
    }
    kernel_ = &(kernels_[kernel.name] = kernel);
    for (const char* which : {"%tid", "%ntid", "%ctaid", "%nctaid"}) {
      for (const char* axis : {".x", ".y", ".z"}) {
        registers_[std::string(which) + axis] = static_cast<std::uint32_t>(registers_.size());
      }
    }
  }

  void end_kernel() {
    for (const auto& [branch, label] : branches_) {
      const auto found = labels_.find(label);
      if (found == labels_.end()) throw Error("no label " + label);
      kernel_->code[branch].target = found->second;
    }
    kernel_ = nullptr;
    scopes_ = 0;
    registers_.clear();
    constants_.clear();
    symbols_.clear();
    labels_.clear();
    branches_.clear();
  }

  void at_line(const std::string& statement) {
    try {
      if (statement[0] == '$') {
        labels_[statement.substr(0, statement.size() - 1)] =
            static_cast<std::uint32_t>(kernel_->code.size());
      } else if (statement[0] == '.') {
        declare(tokens_of(statement));
      } else {
        instruction(tokens_of(statement));
      }
    } catch (const std::exception& error) {
      throw Error("line " + std::to_string(line_) + ": " + statement + ": " + error.what());
    }
  }

  void declare(const std::vector<std::string>& words) {
    if (words[0] == ".reg") {
      // %r<9> are %r0 to %r8; "%SP" is one.
      for (std::size_t i = 2; i < words.size(); ++i) {
        const bool many = i + 2 < words.size() && words[i + 1] == "<";
        const std::uint64_t count = many ? number(words[i + 2]) : 1;
        for (std::uint64_t k = 0; k < count; ++k) {
          registers_[many ? words[i] + std::to_string(k) : words[i]] = kernel_->slots++;
        }
        i += many ? 4 : 1;
      }
      return;
    }
    const bool shared = words[0] == ".shared";
    if (!shared && words[0] != ".local") {
      if (words[0] == ".pragma") return;
      throw Error("declaration");
    }
    // .local .align 16 .b8 name [ 40 ]
    std::uint32_t align = 1, size = 1;
    std::string name;
    for (std::size_t i = 1; i < words.size(); ++i) {
      if (words[i] == ".align") {
        align = static_cast<std::uint32_t>(number(words.at(++i)));
      } else if (words[i] == "[") {
        size *= static_cast<std::uint32_t>(number(words.at(++i)));
      } else if (words[i][0] == '.') {
        size = static_cast<std::uint32_t>(number(words[i].substr(2))) / 8;
      } else if (words[i] != "]") {
        name = words[i];
      }
    }
    std::uint32_t& bytes = shared ? kernel_->shared_bytes : kernel_->local_bytes;
    bytes = (bytes + align - 1) / align * align;
    symbols_[name] = shared ? bytes : tagged(Space::kLocal, bytes);
    bytes += size;
  }

  // Gives the slot of a register, a symbol's address or a number.
  std::uint32_t slot(const std::string& word) {
    const auto found = registers_.find(word);
    if (found != registers_.end()) return found->second;
    if (word[0] == '%') throw Error("no register " + word);
    if (word == "_") return registers_[word] = kernel_->slots++;  // what nobody wants
    const auto symbol = symbols_.find(word);
    const std::uint64_t value = symbol != symbols_.end() ? symbol->second : number(word);
    const auto [at, is_new] = constants_.try_emplace(value, kernel_->slots);
    if (is_new) kernel_->constants.emplace_back(kernel_->slots++, value);
    return at->second;
  }

  void instruction(const std::vector<std::string>& words) {
    Instruction made;
    made.line = line_;
    std::size_t i = 0;
    if (words[0] == "@") {
      made.unless = words.at(1) == "!";
      i = made.unless ? 2 : 1;
      made.guard = static_cast<std::int32_t>(slot(words.at(i++)));
    }
    const std::string& name = words.at(i++);
    made.run = find_operation(name, made);
    if (name.compare(0, 3, "bar") == 0 && (words.size() != i + 1 || words[i] != "0")) {
      throw Error("a barrier but that of the whole group");
    }
    if (name.compare(0, 3, "bra") == 0) {
      branches_.emplace_back(kernel_->code.size(), words.at(i++));
    }
    // Operands in their order: the first is written, but by a store or a barrier.
    const bool reads_all = name.compare(0, 3, "st.") == 0 || name.compare(0, 4, "red.") == 0 ||
                           name.compare(0, 3, "bar") == 0;
    std::size_t to = 0, from = 0;
    const auto add = [&](const std::string& word, bool written) {
      std::size_t& count = written ? to : from;
      if (count == (written ? std::size(made.to) : std::size(made.from))) throw Error("operands");
      (written ? made.to : made.from)[count++] = slot(word);
    };
    for (std::size_t operand = 0; i < words.size(); ++operand) {
      const bool written = operand == 0 && !reads_all;
      if (words[i] == "{") {
        for (++i; words.at(i) != "}"; ++i) {
          if (words[i] != ",") add(words[i], written);
        }
        ++i;
      } else if (words[i] == "[") {
        add(words.at(++i), false);
        ++i;
        if (words.at(i) == "+") {
          made.offset = static_cast<std::int64_t>(number(words.at(i + 1)));
          i += 2;
        }
        if (words.at(i++) != "]") throw Error("address");
      } else {
        add(words[i++], written);
      }
      if (i < words.size() && words[i++] != ",") throw Error("operands");
    }
    // Words of two halves in braces.
    if (name.compare(0, 4, "mov.") == 0 && to + from != 2) {
      if (to + from != 3) throw Error("operands");
      made.run = find_operation((to == 2 ? "unpack" : "pack") + name.substr(3), made);
    }
    kernel_->code.push_back(made);
  }

  const std::string& text_;
  std::size_t at_ = 0;
  std::uint32_t line_ = 1;
  int scopes_ = 0;  // inside a kernel's own
  std::map<std::string, Kernel> kernels_;
  Kernel* kernel_ = nullptr;
  std::map<std::string, std::uint32_t> registers_, labels_;
  std::map<std::string, std::uint64_t> symbols_;
  std::map<std::uint64_t, std::uint32_t> constants_;
  std::vector<std::pair<std::size_t, std::string>> branches_;
};

}  // namespace

std::map<std::string, Kernel> parse(const std::string& text) { return Reader(text).module(); }

}  // namespace emulator
