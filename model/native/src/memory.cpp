#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace gpt2 {

constexpr size_t HUGE_PAGE = size_t{1} << 21;

Memory::Memory(size_t size) : size_((size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE) {
    if (size == 0) return;
    if (size > SIZE_MAX / 2) throw std::bad_alloc();
    // One huge page more than needed, so that the memory can begin at a border of one; the rest is given back.
    char* mapped = static_cast<char*>(mmap(nullptr, size_ + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    char* begin = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(mapped) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (begin != mapped) munmap(mapped, begin - mapped);
    if (begin != mapped + HUGE_PAGE) munmap(begin + size_, mapped + HUGE_PAGE - begin);
#ifdef MADV_HUGEPAGE
    madvise(begin, size_, MADV_HUGEPAGE);  // where the system has none, small pages do
#endif
    data_ = begin;
}

Memory::~Memory() {
    if (data_) munmap(data_, size_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}  // namespace gpt2
