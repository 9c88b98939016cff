//! Specialises every kernel to `story.toml`: PTX and the table that names it go to `OUT_DIR`.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use monomorph_codegen::emit::{self, Heading};
use monomorph_codegen::{Device, ModelSpec, plan};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=story.toml");
    let spec = ModelSpec::from_toml(&fs::read_to_string("story.toml")?)?;
    let device = Device::from_sm(90).ok_or("no kernels for this target")?;
    let plan = plan::build(&spec, device)?;
    for file in emit::files(&plan, &Heading::new(&spec, device))? {
        fs::write(Path::new(&env::var("OUT_DIR")?).join(file.name), file.text)?;
    }
    Ok(())
}
